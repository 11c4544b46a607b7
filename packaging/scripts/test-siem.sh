#!/usr/bin/env bash
# Tests the detection content of packaging/siem. Arguments go to unittest, as Native or Native.test_....
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=packaging/scripts/siem-python.sh
. packaging/scripts/siem-python.sh

# Microsoft's parser of KQL.
package=@kusto/language-service-next@12.4.1
if [ "$(cat "$siem_dir/npm/installed" 2>/dev/null)" != "$package" ]; then
    mkdir -p "$siem_dir/npm"
    npm install --prefix "$siem_dir/npm" --ignore-scripts --no-audit --no-fund --no-save --silent "$package"
    echo "$package" >"$siem_dir/npm/installed"
fi
export PENSTOCK_SIEM_NPM="$siem_dir/npm"

# What the sinks deliver of the samples is rendered by the mappings themselves.
"${CARGO:-cargo}" build --locked --quiet -p low-side --example siem-samples

cd packaging/siem/tests
if [ $# -eq 0 ]; then
    set -- test_siem
else
    set -- "${@/#/test_siem.}"
fi
exec python -W ignore -m unittest -v "$@"
