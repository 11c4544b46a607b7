paired
mkdir -p /srv/evidence
low_setting '[[archive]]' 'name = "copy"' 'type = "directory"' 'path = "/srv/evidence"'
systemctl start penstock-high
systemctl start penstock-low
tell 2; carry; delivered 2
#> penstock-low archive restore --from
#> penstock-low archive restore routine/1
#.
ls /srv/restored/*.pstk
