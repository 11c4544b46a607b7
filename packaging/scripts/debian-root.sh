# Sourced by the scripts that try the packages: what they say, the packages, a bare Debian root, the handbook's commands.
# shellcheck shell=bash

suite=bookworm
# A version that is none, for upgrades. The scripts that source this use it.
# shellcheck disable=SC2034
new_version=0.999.0

fail() {
    echo "$(basename "$0" .sh): $*" >&2
    exit 1
}
say() { echo "== $*"; }
expect() {
    local what=$1 want=$2 got=$3
    [ "$want" = "$got" ] || fail "$what: expected $want, found $got"
}

# need "PROGRAM PACKAGE"...
need() {
    local each
    for each in "$@"; do
        command -v "${each% *}" >/dev/null || fail "${each% *} is not here (apt-get install ${each#* })"
    done
}

# build_packages ARGUMENTS-OF-PACKAGE.SH...: with PENSTOCK_PROGRAMS, a folder of programs that were built already, for
# a try in a hurry.
build_packages() {
    local given=()
    if [ -n "${PENSTOCK_PROGRAMS:-}" ]; then
        given=(--programs "$PENSTOCK_PROGRAMS")
    fi
    packaging/scripts/package.sh "${given[@]}" "$@" >/dev/null
}

# Makes a bare root once, and says where it is: what debootstrap calls minimal, and what this machine's own apt is
# configured for.
bare_root() {
    local base=target/package/$suite.tar mirror made
    if [ ! -e "$base" ]; then
        say "a bare root of $suite" >&2
        # shellcheck disable=SC2016
        mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $suite" 'Created-By: Packages' 'Component: main' | head -n 1)
        [ -n "$mirror" ] || fail "no source of $suite among apt's sources here"
        made=$(mktemp -d "${TMPDIR:-/tmp}/penstock-root.XXXXXX")
        debootstrap --variant=minbase "$suite" "$made/root" "$mirror" >"$made/log" 2>&1 ||
            fail "debootstrap failed, see $made/log: $(tail -n 3 "$made/log")"
        tar -C "$made/root" -cf "$base.new" .
        mv "$base.new" "$base"
        rm -rf --one-file-system "$made"
    fi
    echo "$base"
}

# unpack_root FOLDER TAR: a root that can reach the mirror.
unpack_root() {
    mkdir "$1"
    tar -C "$1" -xpf "$2"
    cp /etc/resolv.conf "$1/etc/resolv.conf"
    cp /etc/apt/apt.conf.d/* "$1/etc/apt/apt.conf.d/" 2>/dev/null || true
}

# The commands of the handbook's start, in order: side, tab, command.
documented() {
    python3 - packaging/doc/install.md <<'PYTHON'
import re, sys
side, inside, past = None, False, False
for line in open(sys.argv[1]):
    if line.startswith("## "):
        past = line.startswith("## Five minutes")
    elif past and (found := re.match(r"On the (high|low) side", line)):
        side = found[1]
    elif past and line.startswith("```"):
        inside = line.startswith("```sh")
    elif past and inside and line.strip():
        print(side, line.strip(), sep="\t")
PYTHON
}
