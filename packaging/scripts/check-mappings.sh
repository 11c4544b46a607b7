#!/usr/bin/env bash
# Renders the golden samples, and the real ones where they are present, and checks the events with
# validators that are not ours: OCSF's JSON Schema, CIM's data models, three readers of CEF and one of LEEF.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir="${CARGO_TARGET_DIR:-$PWD/target}/mapping-check"
packages=(ocsf-json-schema==1.2.0 jsonschema==4.26.0 cefp==0.0.2)
# Only its data models are read; its dependencies are a test framework's.
models=pytest-splunk-addon==7.0.5
reader=nsyslog-parser@0.10.1

mkdir -p "$dir/rendered"
if [ "$(cat "$dir/installed" 2>/dev/null)" != "${packages[*]} $models $reader" ]; then
    echo "installing: ${packages[*]} $models $reader" >&2
    if command -v uv >/dev/null; then
        uv venv --quiet --clear "$dir/venv"
        uv pip install --quiet --python "$dir/venv/bin/python" "${packages[@]}"
        uv pip install --quiet --python "$dir/venv/bin/python" --no-deps "$models"
    else
        python3 -m venv "$dir/venv"
        "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"
        "$dir/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$models"
    fi
    if command -v npm >/dev/null; then
        npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund --no-save --silent "$reader"
    fi
    echo "${packages[*]} $models $reader" >"$dir/installed"
fi

PENSTOCK_RENDER_DIR="$dir/rendered" "${CARGO:-cargo}" test --locked --quiet -p low-side --lib mapping::
NODE_PATH="$dir/node_modules" "$dir/venv/bin/python" packaging/scripts/check_mappings.py \
    low-side/src/mapping/golden "$dir/rendered"
