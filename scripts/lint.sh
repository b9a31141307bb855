#!/usr/bin/env bash
# Style checks: format, includes, shell, spelling, clang-tidy, clang's thread safety check. `lint.sh --fix` formats the sources.
# shellcheck disable=SC2317  # functions are called through others
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

mapfile -t sources < <(find include src tools tests bench fuzz -name '*.[ch]pp' | sort)
failed=0

check() {
  local name=$1
  shift
  "$@" || { printf 'lint: %s failed\n' "$name"; failed=1; }
}

no_parent_includes() { ! grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"\.\./' "${sources[@]}"; }

# A file has one job: longer ones should have been two.
short_files() {
  local status=0 lines file
  for file in "${sources[@]}"; do
    lines=$(wc -l <"$file")
    ((lines <= 400)) || { printf '%s: %d lines; at most 400\n' "$file" "$lines"; status=1; }
  done
  return "$status"
}

# Limits on time stand in one place (cmake/SwiftBalancerTests.cmake).
no_other_limits() { ! grep -rnw --include=CMakeLists.txt -e TIMEOUT tests bench fuzz; }

# Sources are joined where they can be: most of the time goes into reading headers. Of clang's own warnings those of -Wthread-safety
# alone, the rest is g++'s business.
tidy() {
  cmake --preset lint >build/configure.log 2>&1 || { tail -20 build/configure.log; return 1; }
  python3 scripts/tidy_units.py build/lint >build/lint/units || return 1
  xargs -0 -n 1 -P "$(nproc)" .venv/bin/clang-tidy --quiet -p build/lint/tidy --extra-arg=-Wno-everything \
    --extra-arg=-Wthread-safety <build/lint/units 2>build/clang-tidy.log
}

if [[ ${1:-} == --fix ]]; then
  .venv/bin/clang-format -i "${sources[@]}"
  exit 0
fi
[[ $# -eq 0 ]] || die "unknown argument '$*'; usage: lint.sh [--fix]"
[[ -x .venv/bin/clang-tidy ]] || die "clang-tidy is missing: run scripts/setup.sh --tests"

check "format (scripts/lint.sh --fix repairs it)" .venv/bin/clang-format --dry-run -Werror "${sources[@]}"
check "includes with ../" no_parent_includes
check "file length" short_files
check "time limits" no_other_limits
check "shellcheck" shellcheck -x scripts/*.sh .ci/run
check "spelling" codespell --quiet-level=2 ./*.md docs scripts tools include src tests bench fuzz/*.[ch]pp
check "clang-tidy" tidy
((failed)) || say "lint: no findings"
exit "$failed"
