#!/usr/bin/env bash
# Sourced by siem-content.sh and test-siem.sh: the Python packages of packaging/siem, in target/siem. With a plain
# pip the resolver does not come to an end on pySigma; uv does.
siem=$PWD/packaging/siem
siem_dir=${CARGO_TARGET_DIR:-$PWD/target}/siem
wanted=$(cat "$siem/tests/requirements.txt")
if [ "$(cat "$siem_dir/installed" 2>/dev/null)" != "$wanted" ]; then
    mkdir -p "$siem_dir"
    python3 -m venv "$siem_dir/venv"
    "$siem_dir/venv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9
    "$siem_dir/venv/bin/uv" pip install --quiet --python "$siem_dir/venv/bin/python" -r "$siem/tests/requirements.txt"
    echo "$wanted" >"$siem_dir/installed"
fi
export PATH="$siem_dir/venv/bin:$PATH"
export PYTHONPATH="$siem/build:$siem/tests" PYTHONDONTWRITEBYTECODE=1
