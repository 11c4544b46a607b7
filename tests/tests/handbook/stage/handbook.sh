installed
cd /root
#> penstock-low quarantine list
low_setting '[[sink]]' 'name = "siem"' 'type = "file"' 'path = "/var/log/penstock"'
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
