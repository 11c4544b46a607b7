paired
mkdir -p /var/backups/penstock
mount -t tmpfs stick /media/stick
systemctl start penstock-high
systemctl start penstock-low
tell 3; carry; delivered 3
#> penstock-low receipt
tell 2
#> penstock-high recover --from
mv "$(ls -dt /var/lib/penstock-high/set-aside-* | head -n 1)" /var/lib/penstock-high/set-aside-20261125T081500Z
