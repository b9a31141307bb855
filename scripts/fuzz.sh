#!/usr/bin/env bash
# Builds the fuzz targets and runs each for some seconds (60 by default): `fuzz.sh [SECONDS] [TARGET...]`. Starts from the
# committed corpora and from what earlier runs found (build/fuzz/corpus). Ends with a table; fails if an input was a finding.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

seconds=60
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
((seconds > 0)) || die "0 seconds would run for ever; give 1 or more"
known=()
for folder in fuzz/corpus/*/; do known+=("$(basename "$folder")"); done
targets=("$@")
(($#)) || targets=("${known[@]}")
for target in "${targets[@]}"; do
  [[ -d fuzz/corpus/$target ]] || die "unknown target '$target'; usage: fuzz.sh [SECONDS] [TARGET...]; targets: ${known[*]}"
done
command -v clang++-19 >/dev/null || die "clang++-19 is missing: run scripts/setup.sh --tests"

mkdir -p build/fuzz/runs
say "building"
cmake --preset fuzz >build/configure.log 2>&1 || { tail -20 build/configure.log; exit 1; }
cmake --build --preset fuzz --target "${targets[@]/#/fuzz_}" >build/fuzz/build.log 2>&1 ||
  { tail -40 build/fuzz/build.log; exit 1; }

# What the targets write lies in a folder of this run, so that a crash leaves nothing behind.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

stat_of() { sed -n "s/^stat::$1: *//p" "$2" | tail -1; }

table=()
findings=()
for target in "${targets[@]}"; do
  say "$target, $seconds s"
  log=build/fuzz/runs/$target.log
  found=build/fuzz/findings/$target
  mkdir -p "build/fuzz/corpus/$target" "$found"
  dictionary=()
  [[ -f fuzz/dictionaries/$target ]] && dictionary=("-dict=fuzz/dictionaries/$target")
  before=$(find "$found" -type f | sort)
  result=none
  "build/fuzz/bin/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 \
    -artifact_prefix="$found/" "${dictionary[@]}" "build/fuzz/corpus/$target" "fuzz/corpus/$target" >"$log" 2>&1 || result=FAILED
  new=$(comm -13 <(printf '%s\n' "$before") <(find "$found" -type f | sort))
  if [[ $result == FAILED ]]; then
    findings+=("$target: input ${new:-none written}, log $log")
    tail -n 25 "$log"
  fi
  table+=("$(printf '%-16s %12s %10s %10s  %s' "$target" "$(stat_of number_of_executed_units "$log")" \
    "$(stat_of average_exec_per_sec "$log")" "$(stat_of new_units_added "$log")" "$result")")
done

echo
printf '%-16s %12s %10s %10s  %s\n' target runs runs/s 'new units' findings
printf '%s\n' "${table[@]}"
if ((${#findings[@]})); then
  printf 'finding: %s\n' "${findings[@]}"
  exit 1
fi
