#!/usr/bin/env bash
# Builds what makes packages, once, into target/package-tools. Prints nothing where all is there.
set -euo pipefail
cd "$(dirname "$0")/../.."

tools=(
    cargo-deb@3.8.0
    cargo-generate-rpm@0.21.1
    cargo-cyclonedx@0.5.9
)

# They run for seconds: what counts is that they are built quickly.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
# Nothing of how our programs are built is meant for them.
unset RUSTFLAGS CFLAGS CXXFLAGS SOURCE_DATE_EPOCH

root=target/package-tools
for tool in "${tools[@]}"; do
    mark="$root/$tool"
    if [ -x "$root/bin/${tool%@*}" ] && [ -e "$mark" ]; then
        continue
    fi
    echo "building $tool into $root" >&2
    CARGO_TARGET_DIR="$root/build" cargo install --locked --quiet --root "$root" "$tool"
    touch "$mark"
done
