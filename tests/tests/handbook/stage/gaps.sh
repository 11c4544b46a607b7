paired
systemctl start penstock-high
systemctl start penstock-low
tell 3; carry; delivered 3
tell 2
#> penstock-high recover
#= 1
#> penstock-high recover --from
penstock-low receipt --out low.receipt
mv /var/lib/penstock-high/set-aside-* /var/lib/penstock-high/set-aside-20261125T081500Z
#.
carry; delivered 5
