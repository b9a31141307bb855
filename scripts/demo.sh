#!/usr/bin/env bash
# The demonstration: builds, then serves the shipped checkpoint on 8 rank processes with traffic that drifts between text
# domains, without balancing and with two policies (scripts/demo.yaml). Arguments go to `swiftbalancer serve`.
# `demo.sh faults` instead serves with a planner killed, a packet corrupted, a rank killed (one replaced, one not), a rank stopped.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

scripts/build.sh
if [[ ${1:-} == faults ]]; then
  shift
  exec .venv/bin/python scripts/demo_faults.py "$@"
fi
say "serving"
build/release/bin/swiftbalancer serve --config scripts/demo.yaml "$@"
