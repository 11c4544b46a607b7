#! exact
installed
penstock-high init --origin plant-7 > high.pub
mkdir -p /var/log/kubernetes && cp /run/samples/kube-audit.jsonl /var/log/kubernetes/audit.log
