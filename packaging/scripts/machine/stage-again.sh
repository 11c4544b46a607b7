# The boot after the power cut: everything comes up by itself and nothing is lost; then the packages go and come back.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "what came up by itself"
wait_for "both services run" both_active
for unit in penstock-low-import.path penstock-low-import.timer; do
    expect "$unit" active "$(systemctl is-active "$unit")"
done
expect "failed units" "" "$(systemctl --failed --plain --no-legend | awk '{ print $1 }' | tr '\n' ' ')"
for side in high low; do
    note "penstock-$side was ready $(($(property "penstock-$side" ActiveEnterTimestampMonotonic) / 1000000)) s after the kernel began, $(property "penstock-$side" NRestarts) restarts"
done
expect "what systemd-tmpfiles makes at each boot" "penstock-low:penstock-low 770" "$(stat -c '%U:%G %a' /var/spool/penstock/landing)"
keys_in_tpm

say "nothing is lost"
answered=$(told answered)
had=$(told events)
[ "$(wc -l <"$events")" -ge "$had" ] || fail "the sink had $had events before the cut, and has $(wc -l <"$events")"
# cut-1 to cut-ANSWERED were answered before the plug was pulled; there may be more.
seq "$answered" | sed 's/^/cut-/' >"$run/cut"
stick -o uid=penstock-low,umask=0077
taken after-the-cut
# All of them once more on a folder: what the low side has is a duplicate, and what was lost with the stick is not.
mkdir /root/once-more
seal >/dev/null
export_to --all /root/once-more >"$run/command.log" 2>&1 || fail "$(cat "$run/command.log")"
chmod -R a+rX /root/once-more
chown -R penstock-low /root/once-more
"${import_by[@]}" penstock-low import /root/once-more >"$run/command.log" 2>&1 || fail "$(cat "$run/command.log")"
tail -n 3 "$run/command.log" | sed 's/^/   /'
wait_for "the record after the cut arrives" arrived after-the-cut
kept cut "$run/cut"
note "$answered answered before the cut, $(at_sink cut | wc -l) at the sink, each once"
expect "records in all that arrived twice" "" "$(grep -o '"id":"[0-9a-f]*"' "$events" | sort | uniq -d)"
adds_up
penstock-low account --last 1h | sed 's/^/   /'

say "removal and purge keep keys and evidence; installed again, all goes on"
state_of() {
    local side=$1 places=(/etc/penstock/"$1.toml" /etc/penstock/"$1-keys" /etc/credstore.encrypted "/var/lib/penstock-$1")
    if [ "$side" = low ]; then places+=(/var/log/penstock); fi
    find "${places[@]}" -type f -exec sha256sum {} + | sort -k 2
}
systemctl stop penstock-low-import.path penstock-low-import.timer
for side in high low; do
    unit=penstock-$side
    systemctl stop "$unit"
    before=$(state_of "$side")
    systemctl start "$unit"
    for verb in remove purge; do
        apt-get "$verb" --yes -qq "$unit" >"$run/command.log" 2>&1 || fail "$verb: $(cat "$run/command.log")"
        if [ "$(systemctl is-active "$unit")" = active ]; then fail "$unit runs after $verb"; fi
    done
    grep -q "/var/lib/$unit stays" "$run/command.log" || fail "purge does not say what stays"
    # It ran for a moment in between: what it says of itself may differ, its keys and evidence may not be gone.
    expect "files of $side that are gone after the purge" "" \
        "$(comm -23 <(echo "$before" | awk '{ print $2 }' | sort) <(state_of "$side" | awk '{ print $2 }' | sort))"
    expect "links to a service that is gone" "" "$(find /etc/systemd/system -name "$unit*.wants" -o -lname "*$unit*" | tr '\n' ' ')"
    apt-get install --yes -qq "/machine/newer/${unit}_"*.deb >"$run/command.log" 2>&1 || fail "again: $(cat "$run/command.log")"
    expect "the service after installing anew" disabled "$(systemctl is-enabled "$unit" || true)"
    systemctl enable --now "$unit"
    active "$unit" || fail "$unit does not run, installed anew"
done
through after-the-purge
expect "records in all that arrived twice" "" "$(grep -o '"id":"[0-9a-f]*"' "$events" | sort | uniq -d)"
adds_up

say "another state of the machine (PCR 7): the key stays shut"
tpm2_pcrextend 7:sha256=0000000000000000000000000000000000000000000000000000000000000001
if systemctl restart penstock-high; then fail "penstock-high starts in a machine that is not what it was"; fi
expect "exit code of penstock-high" 243 "$(property penstock-high ExecMainStatus)"
