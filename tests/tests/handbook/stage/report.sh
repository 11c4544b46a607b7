paired
systemctl start penstock-high
systemctl start penstock-low
tell 3; carry; delivered 3
mkdir -p /srv/evidence
#> penstock-low report
#~ complete
