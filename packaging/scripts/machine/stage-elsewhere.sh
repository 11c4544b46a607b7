# The disk in a machine with another TPM: the sealed keys stay shut, and nothing but that keeps the services down.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "the disk beside another TPM"
for side in high low; do
    unit=penstock-$side
    attempted() { property_is_not "$unit" NRestarts 0; }
    wait_for "systemd has tried to start $unit" attempted
    if active "$unit"; then fail "$unit runs with keys that another TPM has sealed"; fi
    # EXIT_CREDENTIALS of systemd.exec(5).
    wait_for "$unit fails for its credentials" property_is "$unit" ExecMainStatus 243
    note "$unit: exit code 243 (CREDENTIALS), $(property "$unit" NRestarts) restarts so far"
    journalctl --no-pager --boot --output cat --unit "$unit" | grep -iE 'credential|tpm' | sort | uniq -c | head -n 4 | sed 's/^/   /'
done
if systemd-creds decrypt --name=signing.key /etc/credstore.encrypted/penstock-high.signing.key - >/dev/null 2>&1; then
    fail "another TPM opens the key"
fi
