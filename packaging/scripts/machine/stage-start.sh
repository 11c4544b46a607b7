# The first boot: from nothing to a record at the sink, by the handbook; then what the handbook says of the units, keys,
# the TPM, sticks and filters; at last somebody pulls the plug.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "the start, by the handbook, with a stick of FAT"
mkdir -p /media/usb
stick
begun=$SECONDS
commands=0
while IFS=$'\t' read -r side command; do
    note "$side# $command"
    commands=$((commands + 1))
    case "$command" in
        "apt install "*) command="${command/apt install/apt-get install --yes -qq}" ;;
        *" seal")
            send hello-from-the-secure-zone
            wait_for "the record is in the buffer" received_are 1
            ;;
    esac
    (cd /machine/packages && bash -ec "$command") >"$run/command.log" 2>&1 || fail "$(cat "$run/command.log")"
    case "$command" in
        *"./penstock-low_"*)
            # From here on as the page says for FAT: the user is there now.
            stick -o uid=penstock-low,umask=0077
            ;;
        *"--start"*)
            # Type=notify: when the command ended, the agent had said that it is ready.
            active "penstock-$side" || fail "penstock-$side does not run after --start: $(systemctl status --no-pager "penstock-$side")"
            expect "at boot, after --start" enabled "$(systemctl is-enabled "penstock-$side")"
            ;;
    esac
done </machine/commands
wait_for "the record arrives" arrived hello-from-the-secure-zone
note "$commands commands, $((SECONDS - begun)) s on this emulated machine"
[ "$commands" -le 8 ] || fail "the handbook's start has more than 8 commands"

say "what systemd says of both services"
for side in high low; do
    unit=penstock-$side
    expect "Type of $unit" notify "$(property "$unit" Type)"
    expect "WatchdogUSec of $unit" 2min "$(property "$unit" WatchdogUSec)"
    expect "restarts of $unit" 0 "$(property "$unit" NRestarts)"
    first=$(property "$unit" WatchdogTimestampMonotonic)
    wait_for "$unit tells its watchdog that it lives" property_is_not "$unit" WatchdogTimestampMonotonic "$first"
    pid=$(property "$unit" MainPID)
    expect "user of $unit" "penstock-$side" "$(stat -c %U "/proc/$pid")"
    expect "seccomp mode, no new privileges, capabilities of $unit" "NoNewPrivs:1 Seccomp:2 CapEff:0000000000000000 CapBnd:0000000000000000" \
        "$(awk '/^(CapEff|CapBnd|NoNewPrivs|Seccomp):/ { v[$1] = $2 } END { print "NoNewPrivs:" v["NoNewPrivs:"], "Seccomp:" v["Seccomp:"], "CapEff:" v["CapEff:"], "CapBnd:" v["CapBnd:"] }' "/proc/$pid/status")"
    wait_for "status tells of Landlock" eval "$unit status | grep -q 'Landlock ABI'"
    note "$("$unit" status | grep Landlock | tr -s ' ')"
done

say "how much each unit could do, as systemd judges the running ones"
exposure() { systemd-analyze security --no-pager "$1" | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\) .*/\1/p'; }
for side in high low; do
    note "penstock-$side.service: $(exposure "penstock-$side.service")"
    expect "exposure of penstock-$side" 1.0 "$(exposure "penstock-$side.service")"
done
expect "exposure of penstock-low-import" 0.2 "$(exposure penstock-low-import.service)"

say "both doctors"
for side in high low; do
    code=0
    "penstock-$side" doctor >"$run/doctor-$side" 2>&1 || code=$?
    sed 's/^/   /' "$run/doctor-$side"
    note "penstock-$side doctor ended with $code"
    # A budget of seconds is not what a courier can keep, and the high side's doctor says so; nothing else.
    expect "failures that the doctor of $side finds" "$([ "$side" = low ] || echo "lane flash: a budget of 1s and nothing but a courier")" \
        "$(sed -n 's/^ *FAIL *\(lane flash.* courier\) .*/\1/p; /FAIL  lane flash/!s/^ *FAIL *//p' "$run/doctor-$side")"
done

say "a source that is answered: from here on, what was answered has to arrive"
cat >>/etc/penstock/high.toml <<'END'

[[listener]]
name = "falco"
protocol = "falco-http"
bind = "127.0.0.1:2801"
END
systemctl restart penstock-high
active penstock-high || fail "a restart ends before the agent is ready"

say "systemctl kill -s KILL, both agents, while records come in"
load killed "$run/killed" &
loading=$!
for round in 1 2 3; do
    wait_for "records are answered" lines_are "$run/killed" $((round * 15))
    seal >/dev/null
    high=$(property penstock-high MainPID)
    low=$(property penstock-low MainPID)
    systemctl kill -s KILL penstock-high penstock-low
    wait_for "systemd starts the high side again" restarted penstock-high "$high"
    wait_for "systemd starts the low side again" restarted penstock-low "$low"
done
touch "$run/enough"
wait "$loading"
rm "$run/enough"
post killed-0 && echo killed-0 >>"$run/killed"
carried killed-0
kept killed "$run/killed"
note "$(lines "$run/killed") answered, 3 kills, all of them at the sink once"
adds_up

say "an agent that hangs is started again by the watchdog"
for side in high low; do
    unit=penstock-$side
    mkdir -p "/run/systemd/system/$unit.service.d"
    printf '[Service]\nWatchdogSec=6\nTimeoutAbortSec=2\n' >"/run/systemd/system/$unit.service.d/hang.conf"
    systemctl daemon-reload
    systemctl restart "$unit"
    pid=$(property "$unit" MainPID)
    kill -STOP "$pid"
    wait_for "the watchdog starts $unit again" restarted "$unit" "$pid"
    journalctl --no-pager --boot --unit "$unit" | grep -q 'Watchdog timeout' || fail "no watchdog in the journal of $unit"
    rm -r "/run/systemd/system/$unit.service.d"
    systemctl daemon-reload
    systemctl restart "$unit"
done
through after-the-watchdog

say "systemctl reload: no restart"
pid=$(property penstock-high MainPID)
systemctl reload penstock-high penstock-low
expect "the process after a reload" "$pid" "$(property penstock-high MainPID)"
through after-the-reload

# shellcheck source=packaging/scripts/machine/filters.sh
. /machine/filters.sh
# shellcheck source=packaging/scripts/machine/credentials.sh
. /machine/credentials.sh
# shellcheck source=packaging/scripts/machine/landing.sh
. /machine/landing.sh
# shellcheck source=packaging/scripts/machine/sticks.sh
. /machine/sticks.sh

say "a newer package over running agents"
for side in high low; do
    unit=penstock-$side
    pid=$(property "$unit" MainPID)
    apt-get install --yes -qq "/machine/newer/${unit}_"*.deb >"$run/command.log" 2>&1 || fail "upgrade: $(cat "$run/command.log")"
    restarted "$unit" "$pid" || fail "$unit was not started anew by the upgrade: $(systemctl status --no-pager "$unit")"
    expect "the program that runs" "/usr/bin/$unit" "$(readlink "/proc/$(property "$unit" MainPID)/exe")"
done
through after-the-upgrade

say "the plug is pulled, while records come in, cross and are delivered"
# What the next boot has to make again.
rmdir /var/spool/penstock/landing
adds_up
events_before=$(wc -l <"$events")
load cut "$run/cut" &
carrying() {
    while true; do
        carry >/dev/null 2>&1 || true
    done
}
carrying &
crossed() { [ "$(at_sink cut | wc -l)" -ge 10 ]; }
wait_for "some records have crossed" crossed
for round in 1 2 3; do
    wait_for "more are answered" lines_are "$run/cut" $(($(lines "$run/cut") + 7))
    # What the next boot holds us to.
    answered=$(lines "$run/cut")
    expect "the record that was answered as number $answered" "cut-$answered" "$(sed -n "${answered}p" "$run/cut")"
    echo "value answered $answered"
    echo "value events $(wc -l <"$events")"
done
note "events before: $events_before"
echo "all is well: $stage"
echo "ask power-cut"
# Everything goes on until then.
wait
