#!/usr/bin/env bash
# Installs what is missing and builds the release; the tool is then build/release/bin/swiftbalancer.
set -euo pipefail
# shellcheck source=scripts/common.sh
source "$(dirname "$0")/common.sh"

scripts/setup.sh
say "building build/release"
cmake --preset release >build/configure.log 2>&1 || { tail -20 build/configure.log >&2; die "cmake failed; see build/configure.log"; }
cmake --build --preset release --target swiftbalancer
say "built build/release/bin/swiftbalancer"
