#!/usr/bin/env bash
# Builds the packages here and once more, from nothing, from copies of the sources and of the crates in other folders, in
# another time zone and umask, and compares every file byte by byte:
#   package-reproducible.sh [FOLDER]
# In a FOLDER of the caller's the second build stays, and is gone on with. Expect it to take as long as a release.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    work=$(realpath "$1")
else
    work=$(mktemp -d "${TMPDIR:-/tmp}/penstock-twice.XXXXXX")
    trap 'rm -rf "$work"' EXIT
fi

packaging/scripts/package.sh >/dev/null
# A name of another length, and another depth.
copy=$work/the-same-sources/elsewhere
mkdir -p "$copy/target"
# What git knows, as it lies here: changes that are not committed are built, too.
git ls-files -z | xargs -0 cp --parents --preserve=timestamps --update -t "$copy"
if [ ! -e "$copy/target/package-tools" ]; then
    ln -s "$root/target/package-tools" "$copy/target/package-tools"
fi
# Crates are unpacked anew, so that neither their path nor the time of their files is that of the first build.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$work/crates/registry"
for shared in config config.toml registry/cache registry/index; do
    if [ -e "$cargo_home/$shared" ] && [ ! -e "$work/crates/$shared" ]; then
        ln -s "$(realpath "$cargo_home/$shared")" "$work/crates/$shared"
    fi
done
echo "building in $copy" >&2
(
    cd "$copy"
    umask 077
    export CARGO_HOME=$work/crates TZ=Pacific/Kiritimati
    time packaging/scripts/package.sh >/dev/null
)

different=0
expect=$(cd target/package/out && echo *)
found=$(cd "$copy/target/package/out" && echo *)
if [ "$expect" != "$found" ]; then
    echo "other files: here $expect, there $found" >&2
    different=1
fi
for file in target/package/out/*; do
    if cmp "$file" "$copy/target/package/out/${file##*/}"; then
        echo "same: $(sha256sum <"$file" | cut -c1-64)  ${file##*/}"
    else
        different=1
    fi
done
if [ "$different" = 1 ]; then
    trap - EXIT
    echo "the two builds differ; the other is $copy/target/package/out. diffoscope of one file and its other shows where" >&2
    exit 1
fi
