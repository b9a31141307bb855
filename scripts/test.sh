#!/usr/bin/env bash
# Installs what tests need and runs all of them: lint, every test in release, and those of the parts that handle memory,
# bytes and threads again under sanitizers. Ends with the time and the CPU time of each part; fails if any part failed.
# shellcheck disable=SC2317  # functions are called through others
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

tsan_tests=(transport_test runtime_test migration_thread_transport_test planner_process_test)

summary=()
failed=0

# cpu_seconds: sets $cpu to what the processes that have ended used so far, in seconds. Not $(times): a subshell has no children.
cpu_seconds() {
  local user system
  times >build/times
  { read -r _ && read -r user system; } <build/times
  cpu=0
  local time
  for time in "$user" "$system"; do
    time=${time%%[.,]*}
    cpu=$((cpu + 60 * ${time%m*} + 10#${time#*m}))
  done
}

# run_part NAME COMMAND...: one line of the summary. A failed part does not keep the others from running.
run_part() {
  local name=$1 start=$SECONDS result=passed cpu cpu_before
  shift
  cpu_seconds
  cpu_before=$cpu
  say "$name"
  "$@" || { result=FAILED; failed=1; }
  cpu_seconds
  summary+=("$(printf '%-40s %-7s %6d s %6d s' "$name" "$result" $((SECONDS - start)) $((cpu - cpu_before)))")
  [[ $result == passed ]]
}

configure() { cmake --preset "$1" >build/configure.log 2>&1 || { tail -20 build/configure.log; return 1; }; }

run_tests() {
  local preset=$1 only=()
  shift
  (($#)) && only=(-R "^($(IFS='|'; echo "$*"))(\.[0-9]+)?\$")  # .1, .2: shards of one
  ctest --preset "$preset" -j2 --no-tests=error "${only[@]}" 2>&1 | tee "build/test-$preset.log"
}

# suite NAME PRESET [TEST...]: builds a preset (or some of its test programs) and runs their tests.
suite() {
  local name=$1 preset=$2 targets=()
  shift 2
  (($#)) && targets=(--target "$@")
  run_part "$name: configure" configure "$preset" || return 0
  run_part "$name: build" cmake --build --preset "$preset" "${targets[@]}" || return 0
  run_part "$name: tests" run_tests "$preset" "$@" || return 0
}

start=$SECONDS
mkdir -p build
run_part "installing" scripts/setup.sh --tests || exit 1
rm -f build/test-*.log  # of an earlier run: not to be read as this one's
suite "release" release
run_part "lint" scripts/lint.sh || true
if run_part "address, undefined behaviour: build" cmake --build --preset release --target sanitized_tests; then
  run_part "address, undefined behaviour: tests" run_tests sanitized || true
fi
suite "threads" tsan "${tsan_tests[@]}"

cpu_seconds
echo
say "summary: $((SECONDS - start)) s, $cpu CPU seconds"
printf '%-40s %-7s %8s %8s\n' part result time 'CPU time'
printf '%s\n' "${summary[@]}"
for log in build/test-{release,sanitized,tsan}.log; do
  # ctest's own last words, without the list of passed tests.
  printf '%s: ' "$(basename "$log" .log)"
  grep -sE '% tests passed' "$log" || { echo 'did not run'; continue; }
  sed -n '/The following tests FAILED/,$p' "$log"
done
exit "$failed"
