#!/usr/bin/env bash
# Installs voxtal into .venv, then runs two rounds of the Co-Hf augmentation loop and writes the report.
# Usage: launchers/quickstart.sh [RUN_DIR]    (default: runs/quickstart)
# Run it again at any time: it carries on where it was stopped, or says that it is done.
set -euo pipefail
case "${1:-}" in
    -h | --help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    "") run=runs/quickstart ;;
    /*) run=$1 ;;
    *) run=$PWD/$1 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
prepare_environment ""
use_environment
mpi_settings

mkdir -p "$run"
[ -f "$run/voxtal.toml" ] || cp launchers/quickstart.toml "$run/voxtal.toml"
worked=no
for round in 000 001; do
    if [ -f "$run/round-$round/report/summary.json" ]; then
        say "round $round: already done"
    else
        say "round $round"
        worked=yes
        voxtal round --run "$run"
    fi
done
if [ "$worked" = yes ] || [ ! -f "$run/report/index.html" ]; then
    voxtal report --run "$run"
else
    say "done before: open $run/report/index.html, or delete $run to start anew"
fi
