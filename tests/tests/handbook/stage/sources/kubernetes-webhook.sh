paired
#> s=
block high 1
#> penstock-high status
systemctl start penstock-high
cp /etc/penstock/tls/ca.pem ca.pem
cp /etc/penstock/tls/client-kube-apiserver.pem client.pem
cp /etc/penstock/tls/client-kube-apiserver.key client.key
ip address add 10.0.0.5/32 dev lo
