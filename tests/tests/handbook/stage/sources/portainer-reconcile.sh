paired
certificates portainer.example
cp /etc/penstock/tls/ca.pem portainer-ca.pem
echo "127.0.0.1 portainer.example" >> /etc/hosts
serve 9443
#> cat >
echo ptr_a-key-of-an-administrator > /run/stdin
#> penstock-high reconcile --dry-run
block high 1
systemctl start penstock-high
