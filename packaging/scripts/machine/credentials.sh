# Keys that only systemd reads: files of root's, then files that the TPM has sealed.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "keys of root's, as credentials of both services"
handbook keys-that-the-agent-s-user-can-t-read 1
# The page shows the low side; the high side is told the same way.
penstock-high setup systemd --sources 10.20.0.0/24 --credentials >/etc/systemd/system/penstock-high.service.d/reach.conf
chown root:root /etc/penstock/high-keys/signing.key
systemctl daemon-reload
systemctl restart penstock-high
for key in high-keys/signing.key low-keys/identity.key low-keys/receipt.key; do
    expect "owner of $key" "root:root 600" "$(stat -c '%U:%G %a' "/etc/penstock/$key")"
done
both_active || fail "the services do not run with keys of root's"
for side in high low; do
    note "exposure of penstock-$side with them: $(exposure "penstock-$side.service")"
done
# The verb that needs a key and runs as the agent's user, by the page's words.
taken with-keys-of-root
seal >/dev/null
umount /media/usb
mkdir -p /media/stick
mount -o uid=penstock-low,umask=0077 /dev/disk/by-label/STICK /media/stick
export_to /media/stick >/dev/null
handbook keys-that-the-agent-s-user-can-t-read 2
umount /media/stick
stick -o uid=penstock-low,umask=0077
wait_for "with-keys-of-root arrives" arrived with-keys-of-root

say "keys sealed by the TPM"
note "systemd-creds has-tpm2: $(systemd-creds has-tpm2 | tr '\n' ' ' || true)"
# What the drop-in names has to be there: with sealed keys it is made without --credentials.
for side in high low; do
    "penstock-$side" setup systemd --sources 10.20.0.0/24 >"/etc/systemd/system/penstock-$side.service.d/reach.conf"
done
cp -a /etc/penstock/high-keys /etc/penstock/low-keys /root/
handbook sealed-by-the-machine-s-tpm 1 /usr/share/doc/penstock-high/examples
for key in identity.key receipt.key; do
    systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs=7 --name="$key" "/etc/penstock/low-keys/$key" \
        "/etc/credstore.encrypted/penstock-low.$key"
done
for unit in penstock-low penstock-low-import; do
    mkdir -p "/etc/systemd/system/$unit.service.d"
    cp /usr/share/doc/penstock-low/examples/penstock-low-tpm.conf "/etc/systemd/system/$unit.service.d/tpm.conf"
done
systemctl daemon-reload
systemctl restart penstock-low
shred -u /etc/penstock/low-keys/identity.key /etc/penstock/low-keys/receipt.key
# The keys are nowhere on the disk now, but in the safe.
systemctl restart penstock-high penstock-low
both_active || fail "the services do not run with sealed keys"
for key in high-keys/signing.key low-keys/identity.key low-keys/receipt.key; do
    [ ! -e "/etc/penstock/$key" ] || fail "/etc/penstock/$key is still there"
done
keys_in_tpm
through with-keys-in-the-tpm
for side in high low; do
    note "exposure of penstock-$side with them: $(exposure "penstock-$side.service")"
    code=0
    "penstock-$side" doctor >"$run/doctor-$side" 2>&1 || code=$?
    note "penstock-$side doctor, outside of the service, ends with $code: $(grep -iE 'fail|warn' "$run/doctor-$side" | tr -s ' ' | head -n 3 | tr '\n' ';')"
done
