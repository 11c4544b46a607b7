# Couriers' files, taken in by a unit without a network.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "the landing folder"
landing=/var/spool/penstock/landing
handbook couriers-files-opened-where-there-is-no-network 1 /usr/share/doc/penstock-low/examples
active penstock-low || fail "penstock-low does not run with the landing folder's drop-in"
useradd --groups penstock-low courier
mkdir /root/handed && chmod 755 /root /root/handed
# A courier of the group brings what waits: brought WORD
brought() {
    taken "$1"
    seal >/dev/null
    export_to /root/handed >/dev/null 2>&1
    chmod -R a+r /root/handed
    runuser -u courier -- sh -c "cp /root/handed/*.pstk $landing/"
    rm /root/handed/*
}
nothing_landed() { [ -z "$(ls -A "$landing")" ]; }
# Each way by itself.
systemctl stop penstock-low-import.timer
started=$SECONDS
brought noticed-by-the-path-unit
wait_for "the path unit takes it in" arrived noticed-by-the-path-unit
wait_for "it is removed from the landing folder" nothing_landed
note "noticed by the path unit, at the sink after $((SECONDS - started)) s"
systemctl stop penstock-low-import.path
systemctl start penstock-low-import.timer
started=$SECONDS
brought noticed-by-the-timer
wait_for "the timer takes it in" arrived noticed-by-the-timer
note "noticed by the timer, at the sink after $((SECONDS - started)) s"
systemctl start penstock-low-import.path

agent_sees() { nsenter --mount --target "$(property penstock-low MainPID)" test -e "$landing/$1"; }
# A bundle of which one byte is another. What is no whole file could still be under way, and would be waited for.
taken changed-on-the-way
seal >/dev/null
export_to /root/handed >/dev/null 2>&1
cp /root/handed/*.pstk /root/whole.pstk
cp /root/whole.pstk /root/handed/forged.pstk
printf 'X' | dd of=/root/handed/forged.pstk bs=1 seek=3000 conv=notrunc status=none
chmod a+r /root/handed/forged.pstk
runuser -u courier -- cp /root/handed/forged.pstk "$landing/"
rm /root/handed/*
# The timer may have started it again since: what it was stands in the journal.
refused() { journalctl --no-pager --boot --unit penstock-low-import | grep -q 'status=65'; }
# Before it is taken away, if we are quick enough.
if agent_sees forged.pstk; then fail "the agent sees the landing folder"; fi
wait_for "a forged file is refused" refused
journalctl --no-pager --boot --unit penstock-low-import | grep -q "Failed with result 'exit-code'" || fail "the unit did not fail"
runuser -u penstock-low -- penstock-low quarantine list | grep -q forged || fail "the forged file is not in the quarantine"
note "a forged file: exit code 65, a failed unit, and it lies in the quarantine"
cp /root/whole.pstk /root/handed/ && chmod a+r /root/handed/whole.pstk
runuser -u courier -- cp /root/handed/whole.pstk "$landing/"
wait_for "the bundle as it was sealed is taken in" arrived changed-on-the-way
