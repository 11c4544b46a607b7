#!/usr/bin/env bash
# Builds the agents and runs the demonstration; --live keeps it up.
set -euo pipefail
cd "$(dirname "$0")/../.."

packaging/scripts/install-peers.sh
cargo build --locked --workspace --bins
exec target/debug/penstock-demo "$@"
