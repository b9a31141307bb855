#!/usr/bin/env bash
# Installs what tests need and runs all of them: lint, every test in release, and those of the parts that handle memory,
# bytes and threads again under sanitizers. Ends with a summary; fails if any part failed.
# shellcheck disable=SC2317  # functions are called through others
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

asan_tests=(protocol_test simulation_test planner_test io_checkpoint_test transport_test transport_shm_test runtime_test
            migration_commit_units_test migration_copy_executor_test migration_idle_test migration_thread_transport_test
            engine_serve_units engine_model_test
            fuzz_packet fuzz_plan_message fuzz_state_message fuzz_safetensors fuzz_model_config fuzz_placement_file
            fuzz_load_file fuzz_settings_file formats_test fuzz_expert_map_file fuzz_npy_placement fuzz_sglang_location_file
            fuzz_trtllm_file)
tsan_tests=(transport_test runtime_test migration_thread_transport_test)

summary=()
failed=0

# run_part NAME COMMAND...: one line of the summary. A failed part does not keep the others from running.
run_part() {
  local name=$1 start=$SECONDS result=passed
  shift
  say "$name"
  "$@" || { result=FAILED; failed=1; }
  summary+=("$(printf '%-28s %-7s %4d s' "$name" "$result" $((SECONDS - start)))")
}

# suite PRESET [TEST...]: builds a preset (or some of its test programs) and runs their tests.
suite() {
  local preset=$1 log=build/test-$1.log
  shift
  cmake --preset "$preset" >build/configure.log 2>&1 || { tail -20 build/configure.log; return 1; }
  local only=()
  if (($#)); then
    cmake --build --preset "$preset" --target "$@" || return 1
    only=(-R "^($(IFS='|'; echo "$*"))\$")
  else
    cmake --build --preset "$preset" || return 1
  fi
  ctest --preset "$preset" -j2 --no-tests=error "${only[@]}" 2>&1 | tee "$log"
}

start=$SECONDS
scripts/setup.sh --tests
rm -f build/test-*.log  # of an earlier run: not to be read as this one's
run_part "release: all tests" suite release
run_part "lint" scripts/lint.sh
run_part "address, undefined behaviour" suite asan "${asan_tests[@]}"
run_part "threads" suite tsan "${tsan_tests[@]}"

echo
say "summary, $((SECONDS - start)) s"
printf '%s\n' "${summary[@]}"
for log in build/test-{release,asan,tsan}.log; do
  # ctest's own last words, without the list of passed tests.
  printf '%s: ' "$(basename "$log" .log)"
  grep -sE '% tests passed' "$log" || { echo 'did not run'; continue; }
  sed -n '/The following tests FAILED/,$p' "$log"
done
exit "$failed"
