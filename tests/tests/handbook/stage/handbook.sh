installed
cd /root
#> penstock-low quarantine list
high_setting '[[listener]]' 'name = "any"' 'protocol = "tcp"' 'bind = "127.0.0.1:5140"'
low_setting '[[sink]]' 'name = "siem"' 'type = "file"' 'path = "/var/log/penstock"'
sed -i 's/^settle = .*/settle = "0s"/; s/^rescan-interval = .*/rescan-interval = "100ms"/' /etc/penstock/low.toml
systemctl start penstock-low
# A file whose SHA-256 begins as the page's does.
mkdir /run/foreign
python3 - > /run/foreign/foreign.pstk <<'END'
import hashlib, itertools
texts = (f"not a bundle {n}" for n in itertools.count())
print(next(t for t in texts if hashlib.sha256(t.encode()).hexdigest().startswith("1f0c")), end="")
END
penstock-low import /run/foreign || [ $? = 65 ]
#> penstock-low quarantine retry
#= 65
#> mv /etc/penstock/high-keys
systemctl start penstock-high
tell 1; carry; delivered 1
signed_by() { penstock-low custody show "routine/$1" | grep -o 'signed by SHA256:[^ ]*'; }
#> sed
tell 1; carry; delivered 2
[ "$(signed_by 1)" != "$(signed_by 2)" ]
#> mv /etc/penstock/low-keys
tell 1; carry; delivered 3
#.
# Each is a recipient now, and what is sealed to the new one alone arrives.
[ "$(ls /etc/penstock/high-keys/recipients | wc -l)" = 2 ]
rm "$(ls -t /etc/penstock/high-keys/recipients/* | tail -n 1)" /etc/penstock/low-keys/identity-old.key
systemctl reload penstock-high
systemctl restart penstock-low
tell 1; carry; delivered 4
