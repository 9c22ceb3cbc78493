#!/usr/bin/env bash
# Makes the model that comes with voxtal, src/voxtal/default_model: trains it on every element with
# launchers/periodic_table.sh, prints the table of its figures, and packs it without its data: the analogue generator
# exchanges elements of AFLOW's prototypes.
# Usage: launchers/default_model.sh RUN_DIR FILE... [OPTION...]    (options of launchers/periodic_table.sh)
# Run it again at any time: it carries on where it was stopped, and replaces the model at the end.
set -euo pipefail
case "${1:-}" in
    -h | --help) sed -n '2,6s/^# //p' "$0"; exit 0 ;;
    "" | -*) echo "voxtal: name a run directory first; see launchers/default_model.sh --help" >&2; exit 2 ;;
    /*) run=$1 ;;
    *) run=$PWD/$1 ;;
esac
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/launchers/periodic_table.sh" "$@"
cd "$root"
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
use_environment
new=src/voxtal/.new_model
rm -rf "$new"
voxtal export --prototypes --run "$run" -o "$new"
rm -rf src/voxtal/default_model
mv "$new" src/voxtal/default_model
say "the model is in src/voxtal/default_model"
