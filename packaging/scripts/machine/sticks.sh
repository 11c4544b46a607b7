# Sticks that are plugged in: udev, and a unit for each.
# shellcheck shell=bash disable=SC2154 # guest.sh sources this

say "plug in, and it copies"
examples=/usr/share/doc/penstock-high/examples/media
cp "$examples/90-penstock-export.rules" /etc/udev/rules.d/
cp "$examples/penstock-export@.service" /etc/systemd/system/
mkdir -p /etc/systemd/system/penstock-export@.service.d
cp /etc/systemd/system/penstock-high.service.d/tpm.conf /etc/systemd/system/penstock-export@.service.d/
udevadm control --reload && systemctl daemon-reload
plugged() { [ -e /dev/disk/by-label/PENSTOCK-1 ]; }
unplugged() { ! plugged; }
# A unit that has ended may be forgotten; the journal is not.
ended() { journalctl --no-pager --boot --unit "penstock-$1@*" | grep -qE 'Finished|Failed to start'; }
# What the unit said, since it is gone with the stick: copies VERB
copies() {
    echo "ask plug"
    wait_for "the stick is there" plugged
    wait_for "penstock-$1@ ends" ended "$1"
    journalctl --no-pager --boot --output cat --unit "penstock-$1@*" >"$run/stick.log"
    sed 's/^/   /' "$run/stick.log"
    grep -q Finished "$run/stick.log" || fail "penstock-$1@ did not end well"
    if grep -q '/run/penstock-media' /proc/mounts; then fail "the stick is still mounted"; fi
    echo "ask unplug"
    wait_for "the stick is gone" unplugged
}
taken by-stick
seal >/dev/null
copies export
rm /etc/udev/rules.d/90-penstock-export.rules
examples=/usr/share/doc/penstock-low/examples/media
cp "$examples/90-penstock-import.rules" /etc/udev/rules.d/
cp "$examples/penstock-import@.service" /etc/systemd/system/
mkdir -p /etc/systemd/system/penstock-import@.service.d
cp /etc/systemd/system/penstock-low.service.d/tpm.conf /etc/systemd/system/penstock-import@.service.d/
udevadm control --reload && systemctl daemon-reload
copies import
wait_for "by-stick arrives" arrived by-stick
rm /etc/udev/rules.d/90-penstock-import.rules
udevadm control --reload
