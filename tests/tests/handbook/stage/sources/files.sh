installed
mkdir -p /var/log/kubernetes/audit && touch /var/log/kubernetes/audit/audit.log
