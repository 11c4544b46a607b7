paired
#> penstock-high status
certificates
printf 'edge:secret\n' > /etc/penstock/forward.users && chmod 600 /etc/penstock/forward.users
block high 1
systemctl start penstock-high
