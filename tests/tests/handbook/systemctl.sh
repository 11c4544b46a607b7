#!/bin/bash
# Stands in for the service manager of the page's machine: starts the real agents, as their units would, and ends them.
set -eu
verb=$1
shift
if [ "$verb" = daemon-reload ]; then exit 0; fi
start() {
    local log=/results/$1.log before=0
    if alive "$1"; then return 0; fi
    if [ -e "$log" ]; then before=$(wc -l < "$log"); fi
    "$1" check-config > /dev/null   # as the unit's ExecStartPre
    setsid "$1" run > /dev/null 2>> "$log" < /dev/null &
    echo $! > "/run/$1.pid"
    until=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$until" ]; do
        if tail -n +"$((before + 1))" "$log" 2>/dev/null | grep -qE ' INFO +(the agent is )?ready'; then return 0; fi
        if ! alive "$1"; then
            tail -n +"$((before + 1))" "$log" >&2
            return 1
        fi
        sleep 0.01 # ok: the pause between two looks
    done
    return 1
}
alive() {
    [ -e "/run/$1.pid" ] && kill -0 "$(cat "/run/$1.pid")" 2>/dev/null
}
stop() {
    alive "$1" || return 0
    kill -TERM "$(cat "/run/$1.pid")"
    until=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$until" ]; do
        alive "$1" || return 0
        sleep 0.01 # ok: the pause between two looks
    done
    return 1
}
for unit in "$@"; do
    unit=${unit%.service}
    case "$verb $unit" in
        *" --now") ;;
        "start penstock-"* | "enable penstock-"*) start "$unit" ;;
        "stop penstock-"*) stop "$unit" ;;
        "restart penstock-"*) stop "$unit" && start "$unit" ;;
        "reload penstock-"*) kill -HUP "$(cat "/run/$unit.pid")" ;;
        "is-active penstock-"*) alive "$unit" ;;
        *) echo "systemctl: nothing here stands in for: $verb $unit" >&2 && exit 1 ;;
    esac
done
