paired
#> penstock-high setup falco
block high 1
#> penstock-high status
systemctl start penstock-high
