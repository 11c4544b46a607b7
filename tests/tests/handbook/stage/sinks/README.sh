paired
certificates collector.example
echo "127.0.0.1 collector.example" >> /etc/hosts
serve 8443
block low 1
sed -i '/^url = "https:..collector/a ca-file = "/etc/penstock/tls/ca.pem"' /etc/penstock/low.toml
systemctl start penstock-low
#.
# A name that no sink has is no sink without dead letters.
if penstock-low dead-letters nobody 2> /dev/null; then false; fi
