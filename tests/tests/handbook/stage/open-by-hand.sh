paired
systemctl start penstock-high
tell 2
penstock-high seal
cp /var/lib/penstock-high/outbox/*.pstk bundle.pstk
cp /etc/penstock/low-keys/{allowed_signers,identity.key} .
cp /etc/penstock/low-keys/revoked_keys . 2>/dev/null || : > revoked_keys
