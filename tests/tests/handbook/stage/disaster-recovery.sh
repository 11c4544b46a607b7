paired
mkdir -p /srv/evidence
low_setting '[[archive]]' 'name = "copy"' 'type = "directory"' 'path = "/srv/evidence"'
systemctl start penstock-high
systemctl start penstock-low
tell 3; carry; delivered 3
#> penstock-low alarms
delivered 6
#> systemctl start penstock-low
systemctl stop penstock-low
rm -rf /var/lib/penstock-low/*
#> penstock-low status
delivered 9
#> systemctl start penstock-high
systemctl stop penstock-high
rm -rf /var/lib/penstock-high/*
told=0
#.
tell 2; carry; delivered 11
alarm() { penstock-low alarms | grep -q epoch-began; }
await alarm
