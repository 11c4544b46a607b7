paired
systemctl start penstock-high
systemctl start penstock-low
tell 3; carry; delivered 3
mkdir -p /var/log/kubernetes && cp /run/samples/kube-audit.jsonl /var/log/kubernetes/audit.log
head -n 3 /var/log/kubernetes/audit.log > some-lines.txt
