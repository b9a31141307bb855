#!/usr/bin/env bash
# Runs seeded schedules of whole simulated clusters on all cores: scripts/soak.sh [--seeds N] [--first SEED], or one again:
# scripts/soak.sh --seed SEED. A failing seed is printed, with what it shrinks to.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

usage="usage: soak.sh [--seeds N] [--first SEED] | --seed SEED"
seeds=100000 first=1 only=
while (($#)); do
  [[ $# -ge 2 && $2 =~ ^[1-9][0-9]*$ ]] || die "'$*': $usage, numbers from 1"
  case $1 in
    --seeds) seeds=$2 ;;
    --first) first=$2 ;;
    --seed) only=$2 ;;
    *) die "unknown argument '$1'; $usage" ;;
  esac
  shift 2
done

scripts/setup.sh --tests
cmake --preset release >build/configure.log 2>&1 || { tail -20 build/configure.log >&2; die "cmake failed; see build/configure.log"; }
cmake --build --preset release --target simulation_test
simulate=(build/release/bin/simulation_test --gtest_brief=1 --gtest_filter='Blocks/Schedules.KeepTheInvariants/0')
if [[ -n $only ]]; then
  SWIFTBALANCER_SEED=$only exec "${simulate[@]}"
fi

block=1000
log=build/soak
rm -rf "$log" && mkdir -p "$log"
start=$SECONDS
say "$seeds seeds from $first on $(nproc) cores"
export block log first seeds
run_block() {
  local begin=$((first + $1 * block)) count=$block
  ((count <= first + seeds - begin)) || count=$((first + seeds - begin))
  SWIFTBALANCER_FIRST_SEED=$begin SWIFTBALANCER_SEEDS=$count "${@:2}" >"$log/$begin" 2>&1 || { cat "$log/$begin"; return 255; }
  grep -q "^$count schedules:" "$log/$begin" || { echo "no schedule was run: see $log/$begin"; return 255; }
  touch "$log/$begin.done"
  local done_blocks
  done_blocks=$(find "$log" -name '*.done' | wc -l)
  printf '%d of %d seeds\n' $((done_blocks * block < seeds ? done_blocks * block : seeds)) "$seeds"
}
export -f run_block
seq 0 $(((seeds - 1) / block)) | xargs -P "$(nproc)" -I{} bash -c 'run_block "$@"' _ {} "${simulate[@]}" ||
  die "a schedule broke an invariant: see above; its seed replays with scripts/soak.sh --seed"
say "$seeds seeds clean in $((SECONDS - start)) s"
