paired
sed -i 's/^rescan-interval.*/rescan-interval = "1h"/' /etc/penstock/low.toml
mount -t tmpfs stick /media/usb
mount -t tmpfs disc /media/disc
systemctl start penstock-high
systemctl start penstock-low
tell 25; penstock-high seal > /dev/null
tell 25; penstock-high seal > /dev/null
shown=/media/usb/penstock-transfer-plant-7-20261125040008492.txt
# The record by the name that the page shows.
as_shown() {
    local record
    record=$(ls /media/usb/penstock-transfer-*.txt | grep -v received | head -n 1)
    cp "$record" "$shown" && cp "$record.sig" "$shown.sig"
}
#> penstock-high export /media/usb
#~ /media/usb (SanDisk
#> cat
as_shown
#~ alice (as root) on high-1
#~ /media/usb (SanDisk
#> penstock-low import /media/usb
rm "$shown" "$shown.sig"
#~ by alice (as root) on high-1
#> ssh-keygen
as_shown
#> penstock-high export --parts
rm "$shown" "$shown.sig"
cd
tell 5; penstock-high seal > /dev/null
tell 5; penstock-high seal > /dev/null
#> penstock-low import /media/disc
#> cp systemd/media/90
cd /run/project
mkdir -p /etc/udev/rules.d /etc/systemd/system
