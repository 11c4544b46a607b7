#!/bin/bash
# Runs in the machine that test-machine.sh boots, as a unit, and tells by the second serial line what became of each
# boot's stage. The words that the other end understands: "value NAME VALUE", "ask WHAT", "all is well: STAGE".
set -euo pipefail
exec </dev/null >/dev/ttyS1 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root DEBIAN_FRONTEND=noninteractive
events=/var/log/penstock/events.ndjson
run=/run/machine
mkdir -p "$run"

say() { echo "== $*"; }
note() { echo "   $*"; }
fail() {
    # Whatever stands around it.
    exec >/dev/ttyS1 2>&1
    echo "failed: $*"
    systemctl --no-pager --failed || true
    journalctl --no-pager --boot --lines 40 --output short-monotonic || true
    echo "failed: $*"
    systemctl poweroff --force
    exit 1
}
# What fails in a command's substitution is the business of the line that it stands in.
trap '[ "$BASHPID" != $$ ] || fail "line $LINENO of ${BASH_SOURCE[0]}: $BASH_COMMAND"' ERR
set -E
expect() {
    local what=$1 want=$2 got=$3
    [ "$want" = "$got" ] || fail "$what: expected $want, found $got"
}
# What the host said for this boot, on the kernel's command line.
told() { sed -n "s/.*machine\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
# Waits for a condition, by looking; ten minutes are patience, since all of this is emulated.
wait_for() {
    local what=$1 until=$((SECONDS + 600))
    shift
    while [ "$SECONDS" -lt "$until" ]; do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.2
    done
    fail "$what did not happen within ten minutes"
}
# A block of commands of hardening.md or removable-media.md, as it stands there: handbook HEADING NUMBER
handbook() {
    local block=/machine/handbook/$1-$2.sh
    [ -e "$block" ] || fail "the handbook has no block $2 below $1"
    sed 's/^/   # /' "$block"
    # Where the drop-ins stand that it names without a folder.
    (cd "${3:-/root}" && bash -ec ". '$block'") >"$run/command.log" 2>&1 || fail "$(cat "$run/command.log")"
}

property() { systemctl show --value -p "$2" "$1"; }
property_is() { [ "$(property "$1" "$2")" = "$3" ]; }
property_is_not() { ! property_is "$@"; }
# active UNIT: runs, and was told READY by the agent, as Type=notify demands.
active() { property_is "$1" ActiveState active && property_is "$1" SubState running; }
both_active() { active penstock-high && active penstock-low; }
restarted() {
    local unit=$1 pid=$2
    active "$unit" && property_is_not "$unit" MainPID "$pid" && property_is_not "$unit" MainPID 0
}

# How many records the high side has ever taken in.
received() { penstock-high status --json | grep -o '"received":[0-9]*' | head -n 2 | awk -F: '{ n += $2 } END { print n }'; }
received_are() { [ "$(received)" -ge "$1" ]; }
send() { logger --server "${2:-127.0.0.1}" --port 5514 --tcp --tag test "$1"; }
arrived() { grep -q "$1" "$events"; }
# One line for each record at the sink that has a word with a number: WORD-1, WORD-2.
at_sink() { grep -o "\"raw\":.*$1-[0-9]*" "$events" 2>/dev/null | sed "s/.*\($1-[0-9]*\).*/\1/" | sort; }
# What gives a verb its keys; other keys, other ways.
export_by=()
import_by=(runuser -u penstock-low --)
export_to() { "${export_by[@]}" penstock-high export "$@"; }
import_from() { "${import_by[@]}" penstock-low import "$1"; }
keys_in_tpm() {
    local by=(systemd-run --quiet --wait --pipe) sealed=/etc/credstore.encrypted
    export_by=("${by[@]}" -p "LoadCredentialEncrypted=signing.key:$sealed/penstock-high.signing.key")
    import_by=("${by[@]}" -p User=penstock-low -p "LoadCredentialEncrypted=identity.key:$sealed/penstock-low.identity.key"
        -p "LoadCredentialEncrypted=receipt.key:$sealed/penstock-low.receipt.key")
}
seal() { "${export_by[@]}" penstock-high seal; }
carry() { seal && export_to /media/usb && import_from /media/usb; }
carried() {
    carry >"$run/command.log" 2>&1 || fail "$(cat "$run/command.log")"
    wait_for "$1 arrives" arrived "$1"
}
# taken WORD: a record goes in at the source. One that logs must wait here for the buffer, since nobody answers it.
taken() {
    local before
    before=$(received)
    send "$1"
    wait_for "$1 is in the buffer" received_are $((before + 1))
}
# through WORD: a record goes in at the source, and comes out at the sink.
through() {
    taken "$1"
    carried "$1"
}

# A source that is answered once its record is durable. What was answered stands in a file.
post() { curl --silent --fail --max-time 20 --output /dev/null --data "{\"output\":\"$1\",\"rule\":\"trial\",\"priority\":\"Notice\"}" http://127.0.0.1:2801/; }
# load WORD FILE: posts WORD-1, WORD-2 ... until it is ended.
load() {
    local number=0
    while [ ! -e "$run/enough" ]; do
        number=$((number + 1))
        if post "$1-$number"; then echo "$1-$number" >>"$2"; fi
    done
}
lines() { wc -l <"$1"; }
lines_are() { [ -e "$1" ] && [ "$(lines "$1")" -ge "$2" ]; }
# Every record that a source was promised is at the sink, and nothing is there twice: kept WORD FILE
kept_at_sink() { [ -z "$(comm -23 <(sort "$2") <(at_sink "$1"))" ]; }
kept() {
    wait_for "every record that was answered ($(lines "$2")) arrives" kept_at_sink "$1" "$2"
    expect "records $1 that arrived twice" "" "$(at_sink "$1" | uniq -d)"
}
adds_up() {
    local side
    for side in high low; do
        "penstock-$side" status --json | grep -q '"adds-up":true' || fail "the sums of $side don't add up: $("penstock-$side" status)"
    done
}

# stick OPTIONS-OF-MOUNT...: the stick that is there from the beginning, mounted anew.
stick() {
    wait_for "the stick is found" test -b /dev/disk/by-label/STICK
    if mountpoint -q /media/usb; then umount /media/usb; fi
    mount "$@" /dev/disk/by-label/STICK /media/usb
}

stage=$(told stage)
# What a boot begins with: systemd has brought up what is enabled.
booted() { case "$(systemctl is-system-running)" in running | degraded) true ;; *) false ;; esac; }
wait_for "the machine is up" booted
say "$stage: Linux $(uname -r), $(systemctl --version | head -n 1), up after $(cut -d ' ' -f 1 /proc/uptime) s"
# shellcheck source=packaging/scripts/machine/stage-start.sh
. "/machine/stage-$stage.sh"
echo "all is well: $stage"
systemctl poweroff
