#!/usr/bin/env bash
# Installs what a build needs (or, with --tests, what the tests need too) on Debian 12: packages by apt, as root or with
# sudo, and Python packages into .venv of this repository. Installs only what is missing.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

packages=(ca-certificates g++ cmake ninja-build ccache mold python3 python3-venv libcli11-dev nlohmann-json3-dev
          libyaml-cpp-dev libfmt-dev prometheus-cpp-dev)
python_packages=("vl-convert-python==1.9.*")
if [[ $# -eq 1 && $1 == --tests ]]; then
  packages+=(libgtest-dev libgmock-dev librapidcheck-dev libbenchmark-dev chromium shellcheck codespell
             clang-19 libclang-rt-19-dev llvm-19 valgrind)
  python_packages+=("clang-format==23.1.*" "clang-tidy==23.1.*" "prometheus-client==0.26.*" "promql-parser==0.12.*"
                    "highspy==1.16.*"
                    "numpy==2.4.*")
elif [[ $# -gt 0 ]]; then
  die "unknown argument '$*'; usage: setup.sh [--tests]"
fi

mkdir -p build
log=build/setup.log

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done

if ((${#missing[@]})); then
  command -v apt-get >/dev/null || die "no apt-get here (Debian 12 is needed); install these yourself: ${missing[*]}"
  as_root=()
  if [[ $(id -u) -ne 0 ]]; then
    command -v sudo >/dev/null || die "neither root nor sudo; missing packages: ${missing[*]}"
    sudo -n true 2>/dev/null || [[ -t 0 ]] || die "sudo asks for a password and there is no terminal; missing packages: ${missing[*]}"
    as_root=(sudo)
  fi
  say "installing Debian packages: ${missing[*]}"
  as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  # A failed update is no reason to stop: the lists at hand may do.
  "${as_root[@]}" update >"$log" 2>&1 || true
  "${as_root[@]}" install --no-install-recommends "${missing[@]}" >>"$log" 2>&1 ||
    die "apt-get could not install (no network?): ${missing[*]}; see $log"
fi

missing=()
for package in "${python_packages[@]}"; do
  name=${package%%==*}
  version=${package##*==}
  compgen -G ".venv/lib/python3*/site-packages/${name//-/_}-$version.dist-info" >/dev/null || missing+=("$package")
done

if ((${#missing[@]})); then
  # Debian's own interpreter: another python3 on PATH may lack the modules that Debian's packages bring.
  python=/usr/bin/python3
  [[ -x $python ]] || python=python3
  .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv >>"$log" 2>&1 ||
    die "$python cannot make a virtual environment in .venv; see $log"
  say "installing Python packages into .venv: ${missing[*]}"
  .venv/bin/python -m pip install --disable-pip-version-check --only-binary=:all: -q "${missing[@]}" >>"$log" 2>&1 ||
    die "pip could not install (no network?): ${missing[*]}; see $log"
fi
