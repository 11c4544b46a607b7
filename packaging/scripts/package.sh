#!/usr/bin/env bash
# Builds the packages of both sides, their bill of materials and their checksums:
#   package.sh [--version VERSION] [--out FOLDER] [--programs FOLDER]
# With --programs nothing is built: for trying what is around the programs, with those of `cargo build`.
# The same sources, compiler and C compiler give the same bytes, wherever they lie: see package-reproducible.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

version=
out=target/package/out
programs=
while [ $# -gt 0 ]; do
    case "$1" in
        --version) version=$2 ;;
        --out) out=$2 ;;
        --programs) programs=$2 ;;
        *)
            echo "usage: package.sh [--version VERSION] [--out FOLDER] [--programs FOLDER]" >&2
            exit 64
            ;;
    esac
    shift 2
done
sides=(high low)
stage=target/package/stage

# Every time stamp in the packages: that of the last commit, unless the caller says another.
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) || {
        echo "no git history here: say what time the packages are of, by SOURCE_DATE_EPOCH" >&2
        exit 64
    }
fi
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
umask 022

packaging/scripts/package-tools.sh
PATH="$root/target/package-tools/bin:$PATH"
for need in dpkg-shlibdeps strip gzip; do
    command -v "$need" >/dev/null || {
        echo "$need is not here (apt-get install dpkg-dev binutils gzip)" >&2
        exit 1
    }
done

# The programs, in a folder of their own: benchmarks build theirs with other flags. No path of this machine is in them.
build() {
    # First, so that their folders are there to be named.
    cargo fetch --locked --quiet --target "$(rustc -vV | sed -n 's/^host: //p')"
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} sources
    local rust="--remap-path-prefix=$root=/usr/src/penstock" c="-ffile-prefix-map=$root=/usr/src/penstock"
    for sources in "$cargo_home"/registry/src/*/; do
        rust+=" --remap-path-prefix=${sources%/}=/usr/src/crates"
        c+=" -ffile-prefix-map=${sources%/}=/usr/src/crates"
    done
    # One at a time: of the workspace as a whole the high side would be built with what reads bundles.
    local side
    for side in "${sides[@]}"; do
        CARGO_INCREMENTAL=0 CARGO_TARGET_DIR="$root/target/package/build" RUSTFLAGS="$rust" CFLAGS="$c" CXXFLAGS="$c" \
            cargo build --locked --release -p "$side-side" --bins
    done
}

# What the tables in high-side/Cargo.toml and low-side/Cargo.toml name and no source holds.
stage() {
    rm -rf "$stage"
    mkdir -p "$stage"/{bin,man,doc,rpm,completions/{bash,zsh,fish}}
    gzip -9n <CHANGELOG.md >"$stage/doc/changelog.gz"
    local side program script release=${version:-$(cargo pkgid --locked -p shared)}
    for side in "${sides[@]}"; do
        program=penstock-$side
        strip --strip-unneeded -o "$stage/bin/$program" "$programs/$program"
        "$stage/bin/$program" manual "$stage/man"
        "$stage/bin/$program" completions bash >"$stage/completions/bash/$program"
        "$stage/bin/$program" completions zsh >"$stage/completions/zsh/_$program"
        "$stage/bin/$program" completions fish >"$stage/completions/fish/$program.fish"
        # Debian's own form, for the tools that show it; what changed stands in the other.
        cat >"$stage/doc/$program.changelog" <<CHANGES
$program (${release##*[#@]}-1) unstable; urgency=medium

  * What changed stands in /usr/share/doc/$program/changelog.gz.

 -- $(sed -n 's/^authors = \["\(.*\)"\]$/\1/p' Cargo.toml)  $(date -R -d "@$SOURCE_DATE_EPOCH")
CHANGES
        for script in post preun postun; do
            sed "s/@PACKAGE@/$program/g" "packaging/rpm/$script" >"$stage/rpm/$program.$script"
        done
    done
    gzip -9n "$stage"/man/*
}

pack() {
    rm -rf "$out"
    mkdir -p "$out"
    local side deb=() rpm=()
    if [ -n "$version" ]; then
        # Of a version that is none, for tests: not compressed well, but soon.
        deb=(--deb-version "$version-1" --fast)
        rpm=(--set-metadata "version = \"$version\"" --payload-compress gzip)
    fi
    for side in "${sides[@]}"; do
        cargo-deb deb --quiet --no-build --no-strip -p "$side-side" --output "$out/" "${deb[@]}"
        cargo-generate-rpm generate-rpm -p "$side-side" --auto-req builtin --output "$out/" \
            --metadata-overwrite "$side-side/Cargo.toml#package.metadata.deb" "${rpm[@]}"
    done
}

# What each program is made of. The tool writes beside every manifest of the workspace, whatever it is asked for.
bill() {
    local side program found
    cargo-cyclonedx cyclonedx --manifest-path high-side/Cargo.toml --quiet --format json --spec-version 1.5 --describe binaries
    for side in "${sides[@]}"; do
        program=penstock-$side
        sed "s|path+file://$root/|path+file:///usr/src/penstock/|g" "$side-side/${program}_bin.cdx.json" >"$out/$program.cdx.json"
    done
    for found in ./*/*_bin.cdx.json; do
        rm -f "$found"
    done
}

sums() {
    (cd "$out" && sha256sum -- * >SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
}

if [ -z "$programs" ]; then
    build
    programs=target/package/build/release
fi
stage
pack
bill
sums
ls -l "$out"
