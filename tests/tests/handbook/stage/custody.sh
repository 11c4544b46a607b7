# Flash bundle 2 is lost on the way; a receipt asks for it.
paired
mkdir -p /srv/diode/in /srv/diode/out /mnt/auditor/2026-11-25
mount -t tmpfs stick /media/stick
high_setting '[[carrier]]' 'name = "appliance"' 'type = "folder"' 'path = "/srv/diode/in"'
low_setting '[[receiver]]' 'name = "link"' 'type = "folder"' 'path = "/srv/diode/out"'
systemctl start penstock-high
systemctl start penstock-low
login() {
    printf '<14>1 2026-11-25T00:00:00Z portainer portainer - - - {"id":%s,"timestamp":%s,"username":"admin","type":1,"origin":"10.0.0.9","context":1}\n' \
        "$1" "$(date +%s)" > /dev/tcp/127.0.0.1/5140
    told=$((told + 1))
    await has_received "$told"
    there "/srv/diode/in/plant-7-flash-000000000$1-*.pstk"
}
appliance() { mv /srv/diode/in/plant-7-"$1"* /srv/diode/out/ && delivered "$2"; }
login 1; appliance flash 1
login 2; rm /srv/diode/in/*
login 3; mv /srv/diode/in/* /srv/diode/out/
gap() { penstock-low gaps | grep -q flash; }
await gap
penstock-low receipt --out /run/first.receipt 2> /dev/null
penstock-high receipt import /run/first.receipt > /dev/null 2>&1
there '/srv/diode/in/plant-7-flash-0000000002-*.pstk'
appliance flash 3
#> penstock-low custody verify
signed() { penstock-low custody verify | grep -q '^checkpoints  [1-9]'; }
systemctl stop penstock-low
#> penstock-low custody verify
cp -a /var/lib/penstock-low/custody /run/custody-as-it-was
sed -i '8s/"agent"/"nobody"/' /var/lib/penstock-low/custody/custody-000000000001.log
#= 1
#> penstock-low custody verify --against
rm -r /var/lib/penstock-low/custody && cp -a /run/custody-as-it-was /var/lib/penstock-low/custody
cp /var/lib/penstock-low/custody/checkpoint* /mnt/auditor/2026-11-25/
#> cd /var/lib/penstock-high/custody
systemctl stop penstock-high
#> penstock-low custody export
cd
#> sed '/^-----BEGIN
cd /media/stick
#> penstock-low latency
#> cd /etc/penstock/low-keys
