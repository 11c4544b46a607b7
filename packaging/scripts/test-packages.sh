#!/usr/bin/env bash
# Installs the packages in bare Debian roots and goes through their lives there: the start by the handbook on two
# machines, upgrade, removal, purge, installing anew, both on one machine, and the .rpm. Needs root and Debian's mirror.
set -euo pipefail
cd "$(dirname "$0")/../.."

# shellcheck source=packaging/scripts/debian-root.sh
. packaging/scripts/debian-root.sh
packages=$PWD/target/package/out
newer=$PWD/target/package/newer

[ "$(id -u)" = 0 ] || fail "needs root: it makes root file systems and enters them"
need "debootstrap debootstrap" "rpm rpm" "python3 python3" "logger bsdutils" "objdump binutils"

if [ -n "${PENSTOCK_PACKAGES:-}" ]; then
    packages=$PENSTOCK_PACKAGES
else
    build_packages
fi
build_packages --version "$new_version" --out "$newer"

work=$(mktemp -d "${TMPDIR:-/tmp}/penstock-packages.XXXXXX")
agents=()
clean_up() {
    local pid mounted
    for pid in "${agents[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
    done
    # The innermost first.
    while read -r mounted; do
        umount --lazy "$mounted" || true
    done < <(awk -v work="$work/" 'index($2, work) == 1 { print $2 }' /proc/mounts | tac)
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

base=$(bare_root)

# The stick: a file system of its own, as export demands of what lies below /media.
mkdir "$work/usb"
mount -t tmpfs -o mode=0777,size=64m stick "$work/usb"
make_root() {
    local root=$work/$1
    unpack_root "$root" "$base"
    mount -t proc proc "$root/proc"
    mkdir -p "$root/media/usb" "$root/packages"
    mount --bind "$work/usb" "$root/media/usb"
    cp "$packages"/*.deb "$root/packages/"
}
in_root() {
    local root=$work/$1
    shift
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}
# Waits for a condition, by looking; a minute is patience, not a measurement.
wait_for() {
    local what=$1 tries
    shift
    for tries in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.2
    done
    tail -n 3 "$work"/*.log >&2
    fail "$what did not happen within a minute ($tries looks)"
}

# There is no systemd in a root: what its unit says is done by hand, as its user.
start_agent() {
    local side=$1 root=$2 line
    line=$(sed -n 's/^ExecStart=//p' "$work/$root/usr/lib/systemd/system/penstock-$side.service")
    # Without a shell in between, so that signals reach the agent.
    # shellcheck disable=SC2086
    chroot "$work/$root" env -i PATH=/usr/bin:/bin setpriv --reuid="penstock-$side" --regid="penstock-$side" --init-groups \
        --no-new-privs $line >>"$work/$root-$side.log" 2>&1 &
    agents+=($!)
    echo $! >"$work/$root-$side.pid"
    wait_for "penstock-$side runs" test -S "$work/$root/var/lib/penstock-$side/page.sock"
}
stop_agent() {
    local side=$1 root=$2 pid
    pid=$(cat "$work/$root-$side.pid")
    kill "$pid"
    wait "$pid" || fail "penstock-$side did not end well: $(tail -n 5 "$work/$root-$side.log")"
}
send() { logger --server 127.0.0.1 --port 5514 --tcp --tag test "$1"; }
# How many records the high side has ever taken in.
received() {
    in_root high penstock-high status --json | python3 -c '
import json, sys
print(sum(lane["received"] for lane in json.load(sys.stdin)["lanes"]))'
}
received_are() { [ "$(received)" = "$1" ]; }
arrived() { grep -q "$1" "$work/low/var/log/penstock/events.ndjson"; }
carry() {
    in_root high penstock-high seal
    in_root high penstock-high export /media/usb
    in_root low runuser -u penstock-low -- penstock-low import /media/usb
}

say "two machines"
make_root low
make_root high
for root in low high; do
    in_root "$root" apt-get update -qq
done

say "the start, by the handbook"
begun=$(date +%s)
commands=0
while IFS=$'\t' read -r side command; do
    echo "$side# $command"
    commands=$((commands + 1))
    case "$command" in
        "apt install "*) command="cd /packages && ${command/apt install/apt-get install --yes --no-install-recommends -qq}" ;;
        *" seal")
            # Somebody logs in the meantime.
            send "hello-from-the-secure-zone"
            wait_for "the record is in the buffer" received_are 1
            ;;
    esac
    in_root "$side" sh -ec "$command" >"$work/command.log" 2>&1 </dev/null || fail "$(cat "$work/command.log")"
    case "$command" in
        *" --start"*) start_agent "$side" "$side" ;;
    esac
done < <(documented)
wait_for "the record arrives" arrived hello-from-the-secure-zone
say "$commands commands on both machines, $(($(date +%s) - begun)) s from nothing to a record at the sink"
[ "$commands" -le 8 ] || fail "the handbook's start has more than 8 commands"

say "users, modes, what runs and what would run"
for side in high low; do
    in_root "$side" getent passwd "penstock-$side" | grep -q "/var/lib/penstock-$side:/usr/sbin/nologin" ||
        fail "penstock-$side has a shell or another home: $(in_root "$side" getent passwd "penstock-$side")"
    in_root "$side" dpkg --verify "penstock-$side"
    expect "libraries of OpenSSL" "" "$(in_root "$side" ldd "/usr/bin/penstock-$side" | grep -E 'ssl|crypto' || true)"
    in_root "$side" runuser -u "penstock-$side" -- "penstock-$side" check-config
done
modes() {
    local root=$1 path
    shift
    for path in "$@"; do
        (cd "$work/$root" && chroot . stat -c '%U:%G %a %n' "/$path")
    done
}
expect "modes on high" "root:root 755 /etc/penstock
root:root 644 /etc/penstock/high.toml
penstock-high:penstock-high 750 /etc/penstock/high-keys
penstock-high:penstock-high 600 /etc/penstock/high-keys/signing.key
penstock-high:penstock-high 750 /var/lib/penstock-high
root:root 755 /usr/bin/penstock-high
root:root 644 /usr/share/doc/penstock-high/handbook.md" "$(modes high etc/penstock etc/penstock/high.toml \
    etc/penstock/high-keys etc/penstock/high-keys/signing.key var/lib/penstock-high usr/bin/penstock-high \
    usr/share/doc/penstock-high/handbook.md)"
expect "modes on low" "root:root 755 /etc/penstock
penstock-low:penstock-low 750 /etc/penstock/low-keys
penstock-low:penstock-low 600 /etc/penstock/low-keys/identity.key
penstock-low:penstock-low 750 /var/lib/penstock-low
penstock-low:penstock-low 770 /var/spool/penstock/inbox
penstock-low:penstock-low 750 /var/log/penstock" "$(modes low etc/penstock etc/penstock/low-keys \
    etc/penstock/low-keys/identity.key var/lib/penstock-low var/spool/penstock/inbox var/log/penstock)"
# What belongs to nobody in a state folder, or to root, is out of the agent's reach.
for side in high low; do
    expect "foreign files of penstock-$side" "" \
        "$(in_root "$side" find "/var/lib/penstock-$side" "/etc/penstock/$side-keys" ! -user "penstock-$side")"
    # --start enabled it; the package alone did not, which is looked at below.
    expect "the service after --start" enabled "$(in_root "$side" systemctl is-enabled "penstock-$side")"
done

say "upgrade keeps what was changed, and the evidence"
# Everything that is nobody's but the operator's and the agent's, with the agents at rest.
state_of() {
    local side=$1 places=(etc/penstock etc/systemd/system "var/lib/penstock-$1")
    if [ "$side" = low ]; then places+=(var/log/penstock); fi
    (cd "$work/$side" && find "${places[@]}" -type f -exec sha256sum {} + | sort -k 2)
}
declare -A before
for side in high low; do
    stop_agent "$side" "$side"
    echo "# the operator's own words" >>"$work/$side/etc/penstock/$side.toml"
    mkdir -p "$work/$side/etc/systemd/system/penstock-$side.service.d"
    printf '[Service]\nNice=5\n' >"$work/$side/etc/systemd/system/penstock-$side.service.d/own.conf"
    before[$side]=$(state_of "$side")
    cp "$newer"/*.deb "$work/$side/packages/"
    in_root "$side" sh -c "apt-get install --yes -qq /packages/penstock-${side}_$new_version-1_*.deb" >"$work/command.log" 2>&1 ||
        fail "upgrade: $(cat "$work/command.log")"
    # shellcheck disable=SC2016
    expect "version" "$new_version-1" "$(in_root "$side" dpkg-query -W -f '${Version}' "penstock-$side")"
    expect "state of $side after the upgrade" "${before[$side]}" "$(state_of "$side")"
    expect "the service after the upgrade" enabled "$(in_root "$side" systemctl is-enabled "penstock-$side")"
    start_agent "$side" "$side"
done
send after-the-upgrade
wait_for "the record is in the buffer" received_are 2
carry >"$work/command.log" 2>&1 || fail "$(cat "$work/command.log")"
wait_for "the record arrives" arrived after-the-upgrade

say "removal and purge keep keys and evidence; installed again, all goes on"
for side in high low; do
    stop_agent "$side" "$side"
    before[$side]=$(state_of "$side")
    for verb in remove purge; do
        in_root "$side" apt-get "$verb" --yes -qq "penstock-$side" >"$work/command.log" 2>&1 || fail "$verb: $(cat "$work/command.log")"
        [ ! -e "$work/$side/usr/bin/penstock-$side" ] || fail "the program is there after $verb"
        expect "state of $side after $verb" "${before[$side]}" "$(state_of "$side")"
        expect "links to a service that is gone" "" "$(find "$work/$side/etc/systemd" -name "penstock-$side.service")"
    done
    grep -q "/var/lib/penstock-$side stays" "$work/command.log" || fail "purge does not say what stays: $(cat "$work/command.log")"
    in_root "$side" getent passwd "penstock-$side" >/dev/null || fail "the user is gone, and its files belong to a number"
    in_root "$side" sh -c "apt-get install --yes -qq /packages/penstock-${side}_$new_version-1_*.deb" >"$work/command.log" 2>&1 ||
        fail "again: $(cat "$work/command.log")"
    expect "state of $side after installing anew" "${before[$side]}" "$(state_of "$side")"
    expect "the service after installing anew" disabled "$(in_root "$side" systemctl is-enabled "penstock-$side" || true)"
    start_agent "$side" "$side"
done
send after-the-purge
wait_for "the record is in the buffer" received_are 3
carry >"$work/command.log" 2>&1 || fail "$(cat "$work/command.log")"
wait_for "the record arrives" arrived after-the-purge
expect "records on the low side, each once" 3 "$(grep -c '"raw"' "$work/low/var/log/penstock/events.ndjson")"
for side in high low; do
    stop_agent "$side" "$side"
done

say "both on one machine, scripts that run twice"
in_root high sh -c "apt-get install --yes -qq /packages/penstock-low_$new_version-1_*.deb" >"$work/command.log" 2>&1 ||
    fail "both: $(cat "$work/command.log")"
for side in high low; do
    in_root high env DPKG_MAINTSCRIPT_PACKAGE="penstock-$side" sh "/var/lib/dpkg/info/penstock-$side.postinst" configure
    expect "the service, just installed" disabled \
        "$(in_root high systemctl is-enabled "penstock-$side" || true)"
done
in_root high dpkg --audit

say "the .rpm, in a root of Debian's with its package manager: there is no other"
make_root rpm
in_root rpm apt-get update -qq
in_root rpm apt-get install --yes --no-install-recommends -qq systemd ca-certificates >/dev/null 2>&1
rpm --root "$work/rpm" --initdb
on_rpm() { rpm --root "$work/rpm" --nodeps --noplugins "$@"; }
for side in high low; do
    package=$(echo "$packages/penstock-$side"-*.rpm)
    rpm -qpl "$package" >"$work/$side.rpm-files"
    # The same files as the other kind of package, but for what only Debian has.
    dpkg-deb -c "$packages/penstock-${side}"_*.deb |
        awk '!/\/$/ && !/\/changelog\.Debian\.gz$/ { sub(/^\./, "", $6); print $6 }' | sort >"$work/$side.deb-files"
    expect "files of both packages of $side" "" "$(diff <(sort "$work/$side.rpm-files") "$work/$side.deb-files" || true)"
    rpm -qp --requires "$package" | grep -q '^systemd$' || fail "$package does not ask for systemd"
    ! rpm -qp --requires "$package" | grep -q ssl || fail "$package asks for OpenSSL"
    ! rpm -qp --scripts "$package" | grep -q '@PACKAGE@' || fail "a script of $package was not filled in"
    on_rpm -i "$package"
    on_rpm -V "penstock-$side"
    expect "the service of the .rpm" disabled "$(in_root rpm systemctl is-enabled "penstock-$side" || true)"
done
in_root rpm penstock-low init --name soc-1 >"$work/usb/rpm-low.pub" 2>/dev/null
in_root rpm penstock-high init --origin rpm --pair /media/usb/rpm-low.pub >/dev/null 2>&1
in_root rpm runuser -u penstock-high -- penstock-high check-config
kept=$(cd "$work/rpm" && find etc/penstock -type f -exec sha256sum {} +)
for side in high low; do
    on_rpm -U "$newer/penstock-$side"-*.rpm
    expect "version of the .rpm" "$new_version" "$(rpm --root "$work/rpm" -q --qf '%{VERSION}' "penstock-$side")"
    [ -x "$work/rpm/usr/bin/penstock-$side" ] || fail "the upgrade removed the program"
    on_rpm -e "penstock-$side"
    [ ! -e "$work/rpm/usr/bin/penstock-$side" ] || fail "the program is there after rpm -e"
done
expect "configuration and keys after rpm -e" "$kept" "$(cd "$work/rpm" && find etc/penstock -type f -exec sha256sum {} +)"

say "what the programs need"
for side in high low; do
    needs=$(objdump -T "target/package/stage/bin/penstock-$side" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
    echo "penstock-$side: $needs; $(dpkg-deb -f "$packages/penstock-${side}"_*.deb Depends)"
    grep -q "glibc ${needs#GLIBC_}" packaging/doc/install.md || fail "install.md names another glibc than $needs"
done
say "all is well"
