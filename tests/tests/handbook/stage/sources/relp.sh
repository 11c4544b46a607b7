paired
certificates
block high 1
systemctl start penstock-high
