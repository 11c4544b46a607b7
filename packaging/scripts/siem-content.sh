#!/usr/bin/env bash
# Writes what is generated of the Sigma rules in packaging/siem; --check only compares.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/scripts/siem-python.sh
. packaging/scripts/siem-python.sh

exec python packaging/siem/build/generate.py "$@"
