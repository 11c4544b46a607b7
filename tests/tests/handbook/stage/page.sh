paired
systemctl start penstock-low
