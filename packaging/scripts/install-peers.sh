#!/usr/bin/env bash
# Installs what tests and benches need from Debian, if anything is missing. Starts no service.
set -euo pipefail

# What must be there, and the package it comes in. A path with a star is looked up as a file.
needs=(
    "age age"
    "chromium chromium"
    "cc gcc"
    "gzip gzip"
    "curl curl"
    "ip iproute2"
    "jq jq"
    "logger bsdutils"
    "losetup mount"
    "logrotate logrotate"
    "nft nftables"
    "mkfs.exfat exfatprogs"
    "mkfs.ext4 e2fsprogs"
    "mkfs.vfat dosfstools"
    "node nodejs"
    "npm npm"
    "nsenter util-linux"
    "openssl openssl"
    "rsyslogd rsyslog"
    "python3 python3"
    "/usr/lib/*/rsyslog/lmnsd_gtls.so rsyslog-gnutls"
    "/usr/lib/*/rsyslog/omrelp.so rsyslog-relp"
    "setfacl acl"
    "sha256sum coreutils"
    "ssh-keygen openssh-client"
    "strace strace"
    "systemd-analyze systemd"
    "tar tar"
    "unshare util-linux"
    "zstd zstd"
)

missing_packages() {
    local need what package
    PATH="$PATH:/usr/sbin:/sbin"
    for need in "${needs[@]}"; do
        read -r what package <<<"$need"
        case "$what" in
            /*) compgen -G "$what" >/dev/null || echo "$package" ;;
            *) command -v "$what" >/dev/null || echo "$package" ;;
        esac
    done
    # Debian's Python comes without what makes an environment.
    python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

# By name and version, where tests look for them: the official Node client of Fluentd's Forward protocol; what looks
# at pages in a browser, and what judges whether everybody can read them.
install_npm_peers() {
    local dir="${CARGO_TARGET_DIR:-target}/peers"
    local packages=("@fluent-org/logger@1.0.10" "@msgpack/msgpack@2.8.0" "axe-core@4.14.1" "puppeteer-core@24.8.2")
    if [ "$(cat "$dir/installed" 2>/dev/null)" = "${packages[*]}" ]; then
        return
    fi
    mkdir -p "$dir"
    echo "installing: ${packages[*]}" >&2
    if ! npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --no-save --silent "${packages[@]}"; then
        echo "npm can't install ${packages[*]}: tests of the Forward protocol and of the pages need it" >&2
        echo "without a network: copy $dir of a machine that has run this script" >&2
        exit 1
    fi
    echo "${packages[*]}" >"$dir/installed"
}

# Azurite, Microsoft's emulator of its blob storage, in a folder of its own: it brings 180 MB with it. The newest
# version for the Node of Debian.
install_azurite() {
    local dir="${CARGO_TARGET_DIR:-target}/peers/azurite" package="azurite@3.35.0"
    if [ "$(cat "$dir/installed" 2>/dev/null)" = "$package" ]; then
        return
    fi
    mkdir -p "$dir"
    echo "installing: $package" >&2
    if ! npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --no-save --silent "$package"; then
        echo "npm can't install $package: a test of archives needs it" >&2
        echo "without a network: copy $dir of a machine that has run this script" >&2
        exit 1
    fi
    echo "$package" >"$dir/installed"
}

# Debian packages that are only unpacked: unpack NAME PROGRAM PACKAGE...
unpack() {
    local dir="${CARGO_TARGET_DIR:-target}/peers/$1" program="$2" work
    shift 2
    local packages=("$@")
    if [ -x "$dir/$program" ]; then
        return
    fi
    mkdir -p "$dir"
    work=$(mktemp -d)
    # Lists of packages that are old, or not there, are renewed.
    if (cd "$work" && { apt-get download -q "${packages[@]}" ||
        { "${as_root[@]}" apt-get update -q && apt-get download -q "${packages[@]}"; }; }) >&2; then
        for package in "$work"/*.deb; do
            dpkg -x "$package" "$dir"
        done
    else
        echo "can't download ${packages[*]}: tests need it" >&2
        echo "without a network: copy $dir of a machine that has run this script" >&2
        rm -r "$work"
        exit 1
    fi
    rm -r "$work"
}

unpack_peers() {
    # As packages, syslog-ng and rsyslog exclude each other.
    unpack syslog-ng usr/sbin/syslog-ng syslog-ng-core libivykis0 libnet1 libpcre3 libwrap0
    # As a package, it would bring a service and its users.
    unpack prometheus usr/bin/promtool prometheus
}

# Peers that come as Python packages, by name and version (python-peers.txt beside this script), in one virtual
# environment where tests look for it. Some are programs in other languages that are only packed that way.
install_python_peers() {
    local dir="${CARGO_TARGET_DIR:-target}/peers/python"
    local list
    list="$(dirname "${BASH_SOURCE[0]}")/python-peers.txt"
    if cmp -s "$list" "$dir/installed"; then
        return
    fi
    if ! python3 -c 'import ensurepip' 2>/dev/null && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >&2 || true
    fi
    echo "installing: $(grep -v '^#' "$list" | tr '\n' ' ')" >&2
    if ! python3 -m venv "$dir" ||
        ! "$dir/bin/python3" -m pip install --quiet --disable-pip-version-check --requirement "$list"; then
        echo "python3 can't install what stands in $list: tests with these peers need it" >&2
        echo "without a network: copy $dir of a machine that has run this script; without venv: python3-venv" >&2
        exit 1
    fi
    cp "$list" "$dir/installed"
}

# File systems of sticks that this kernel does not know, as FUSE drivers. Without them, tests of these are
# passed over.
install_stick_drivers() {
    local kind program package
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 0
    while read -r kind program package; do
        if ! grep -qw "$kind" /proc/filesystems && ! command -v "$program" >/dev/null; then
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$package" ||
                echo "no $package: tests of $kind are passed over" >&2
        fi
    done <<<"vfat fusefat fusefat
exfat mount.exfat-fuse exfat-fuse"
}

as_root=()
if [ "$(id -u)" -ne 0 ] && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=(sudo)
fi
mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -eq 0 ]; then
    install_stick_drivers
    install_npm_peers
    install_azurite
    unpack_peers
    install_python_peers
    exit 0
fi

if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        echo "missing: ${missing[*]}" >&2
        echo "as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    as_root=(sudo)
fi
if ! command -v apt-get >/dev/null; then
    echo "missing, by their Debian names: ${missing[*]}" >&2
    exit 1
fi

# Packages of daemons start them on installation, unless this policy says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    # shellcheck disable=SC2064  # the values of now are meant
    trap "${as_root[*]} rm -f $policy" EXIT
fi

echo "installing: ${missing[*]}" >&2
install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends)
"${as_root[@]}" "${install[@]}" "${missing[@]}" ||
    { "${as_root[@]}" apt-get update -q && "${as_root[@]}" "${install[@]}" "${missing[@]}"; }

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -ne 0 ]; then
    echo "still missing after the installation: ${missing[*]}" >&2
    exit 1
fi
install_stick_drivers
install_npm_peers
install_azurite
unpack_peers
install_python_peers
