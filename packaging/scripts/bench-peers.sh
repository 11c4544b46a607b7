#!/usr/bin/env bash
# Unpacks syslog-ng into target/peers. It can't be installed beside rsyslog, and need not be.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=target/peers/syslog-ng
if [ -x "$root/usr/sbin/syslog-ng" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "no apt-get and dpkg here" >&2
    exit 1
fi

downloads=target/peers/downloads
mkdir -p "$downloads"
# With the libraries that a minimal system lacks.
packages=(syslog-ng-core libivykis0 libjson-c5 libnet1 libwrap0 libesmtp6 libdbi1 libcap2)
for package in "${packages[@]}"; do
    (cd "$downloads" && apt-get download -q "$package") ||
        echo "no package $package; going on without it" >&2
done
mkdir -p "$root.partial"
for archive in "$downloads"/*.deb; do
    dpkg -x "$archive" "$root.partial"
done
mv "$root.partial" "$root"
LD_LIBRARY_PATH="$root/usr/lib/$(uname -m)-linux-gnu" "$root/usr/sbin/syslog-ng" --version | sed -n 1p
