#!/usr/bin/env bash
# Builds everything optimised, fetches the peers, and prints the table of measurements.
# Arguments go to penstock-bench: sections (ingest, peers, udp, seal, replay, memory, archive, ledger, diode,
# diode-campaign) and options; see penstock-bench --help.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --locked --release --workspace --bins
if [[ "${1:-}" != diode* ]] && ! packaging/scripts/bench-peers.sh; then
    echo "syslog-ng can't be fetched; the table goes without it" >&2
fi

echo "machine: $(nproc) cores, $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), $(uname -sr)," \
    "$(awk -F ': ' '/model name/ { print $2; exit }' /proc/cpuinfo)," \
    "$(stat -f -c %T "${TMPDIR:-/tmp}") in ${TMPDIR:-/tmp}"
echo "commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
echo
exec target/release/penstock-bench "$@"
