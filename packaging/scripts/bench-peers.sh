#!/usr/bin/env bash
# Unpacks syslog-ng into target/peers. It can't be installed beside rsyslog, and need not be.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$PWD/target/peers/syslog-ng
if [ -x "$root/run" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg >/dev/null; then
    echo "no apt-get and dpkg here" >&2
    exit 1
fi

downloads=target/peers/downloads
mkdir -p "$downloads" "$root"
# With the libraries that a minimal system lacks.
for package in syslog-ng-core libivykis0 libjson-c5 libnet1 libpcre3 libwrap0; do
    (cd "$downloads" && apt-get -q -o APT::Sandbox::User=root download "$package")
done
for archive in "$downloads"/*.deb; do
    dpkg -x "$archive" "$root"
done

modules=$(dirname "$(find "$root" -name libdisk-buffer.so)")
libraries=$(find "$root/usr/lib" "$root/lib" -name '*.so.*' -printf '%h\n' 2>/dev/null | sort -u | paste -sd :)
cat >"$root/run.partial" <<END
#!/bin/sh
LD_LIBRARY_PATH="$libraries" exec "$root/usr/sbin/syslog-ng" --module-path "$modules" "\$@"
END
chmod 755 "$root/run.partial"
# It must run here before anything believes that it does.
"$root/run.partial" --version | sed -n 1p
mv "$root/run.partial" "$root/run"
