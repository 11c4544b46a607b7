#!/usr/bin/env bash
# Builds the packages here and once more from a copy of the sources in another folder, from nothing, and compares every
# file byte by byte:
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
echo "building in $copy" >&2
(cd "$copy" && time packaging/scripts/package.sh >/dev/null)

different=0
for file in target/package/out/*; do
    if cmp "$file" "$copy/target/package/out/${file##*/}"; then
        echo "same: $(sha256sum <"$file" | cut -c1-64)  ${file##*/}"
    else
        different=1
    fi
done
if [ "$different" = 1 ]; then
    trap - EXIT
    echo "the two builds differ; the other is in $work for a look" >&2
    exit 1
fi
