# shellcheck shell=bash
# Sourced by horovod.sh and torchrun.sh, and by every rank that they start. horovodrun and torchrun end with code 1
# whatever code a rank ended with, kill the others when one stops early, and know no SIGUSR1. Here a signal goes to the
# ranks themselves, which then write their checkpoint and stop; the exit code is that of the first rank to fail.

wait_for() { # PID: sets code. A trapped signal interrupts bash's wait, so it waits again
    interrupted=yes
    while [ -n "$interrupted" ]; do
        interrupted=
        code=0
        wait "$1" || code=$?
    done
}

one_rank() { # COMMAND...
    local code rank
    (echo "$BASHPID" >"$VOXTAL_RANKS/pid-$BASHPID"; exec "$@") & # before it runs: no signal may pass it by
    rank=$!
    trap 'interrupted=yes; kill -TERM "$rank" 2>/dev/null || true' TERM # from the launcher: another rank has failed
    wait_for "$rank"
    if [ "$code" != 0 ]; then echo "$code" >>"$VOXTAL_RANKS/codes"; fi
    if [ "$code" = 75 ]; then code=0; fi # as a failure it would have the launcher kill ranks that still write
    exit "$code"
}

signal_ranks() { # SIGNAL
    local pids
    interrupted=yes
    mapfile -t pids < <(cat "$VOXTAL_RANKS"/pid-* 2>/dev/null)
    if [ ${#pids[@]} -gt 0 ]; then
        kill -s "$1" "${pids[@]}" 2>/dev/null || true
    else
        kill "$launcher"
    fi
}

run_ranks() { # PROJECT LAUNCHER... -- COMMAND...: never returns
    local code launcher program=$1/launchers/_ranks.sh start=()
    shift
    while [ "$1" != -- ]; do start+=("$1"); shift; done
    shift
    VOXTAL_RANKS=$(mktemp -d)
    export VOXTAL_RANKS
    trap 'rm -rf "$VOXTAL_RANKS"' EXIT
    # In a file: torchrun would take the command's options (--run) for abbreviations of its own.
    { printf '. %q\none_rank' "$program"; printf ' %q' "$@"; } >"$VOXTAL_RANKS/rank.sh"
    # A session of its own: Ctrl-C comes to the ranks by signal_ranks alone.
    setsid "${start[@]}" bash "$VOXTAL_RANKS/rank.sh" &
    launcher=$!
    trap 'signal_ranks TERM' TERM INT HUP
    trap 'signal_ranks USR1' USR1
    wait_for "$launcher"
    exit "$(head -n 1 "$VOXTAL_RANKS/codes" 2>/dev/null || echo "$code")"
}
