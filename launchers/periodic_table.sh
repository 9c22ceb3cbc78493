#!/usr/bin/env bash
# Every element: from tables of known crystals to the table of docs/results.md, in one command. It imports, voxelizes,
# trains all networks, generates, judges, relaxes a sample of what is new, and judges element substitution beside it.
# Usage: launchers/periodic_table.sh [OPTION...] RUN_DIR [FILE...]
#   FILE               known crystals with formation energies, as `voxtal import` takes them (mp_20.csv.gz)
#   --unlabelled FILE  more of them, whose energies are against other references (perov_5.csv.gz); repeatable
#   --settings NAME    launchers/periodic_table-NAME.toml: laptop (if not given), paper, or paper-32 (its grid is 32^3)
#   --ranks N          train on N GPUs or processes, with Horovod where it is installed, else with torchrun
#   -n N, --relax N    attempts (50000), and how many of the new ones are relaxed (200)
# FILEs and settings go into RUN_DIR/voxtal.toml, which is left as it is where it is there already.
# Run it again at any time: it carries on where it was stopped.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }
quoted() { for file in "$@"; do printf '"%s", ' "$(absolute "$file")"; done; } # as a list of TOML
settings=laptop ranks=1 attempts=50000 relaxed=200 given=() unlabelled=()
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help) sed -n '2,12s/^# //p' "$0"; exit 0 ;;
        --settings | --ranks | -n | --relax | --unlabelled) [ $# -gt 1 ] || stop "$1 needs a value" ;;&
        --settings) settings=$2; shift ;;
        --ranks) ranks=$2; shift ;;
        -n) attempts=$2; shift ;;
        --relax) relaxed=$2; shift ;;
        --unlabelled) unlabelled+=("$2"); shift ;;
        -*) stop "there is no option $1; see launchers/periodic_table.sh --help" ;;
        *) given+=("$1") ;;
    esac
    shift
done
[ ${#given[@]} -gt 0 ] || stop "name a run directory; see launchers/periodic_table.sh --help"
run=$(absolute "${given[0]}") chosen=launchers/periodic_table-$settings.toml
if [ ! -f "$run/voxtal.toml" ]; then
    [ ${#given[@]} -gt 1 ] || stop "$run holds no voxtal.toml; name the files of known crystals after it"
    [ -f "$chosen" ] || stop "there is no $chosen"
    mkdir -p "$run"
    lists=("$(quoted "${given[@]:1}")" "$(quoted "${unlabelled[@]}")")
    { cat "$chosen"; printf 'source = [%s]\nunlabelled_source = [%s]\n' "${lists[@]}"; } >"$run/.voxtal.toml"
    mv "$run/.voxtal.toml" "$run/voxtal.toml"
fi
use_environment
command -v voxtal >/dev/null || { prepare_environment "" && use_environment; }
everywhere=() training=()
if command -v mpirun >/dev/null; then everywhere=(launchers/mpi.sh "$(env -u OMP_NUM_THREADS nproc)"); fi
if [ "$ranks" -gt 1 ]; then
    training=(launchers/torchrun.sh "$ranks")
    if command -v horovodrun >/dev/null; then training=(launchers/horovod.sh "$ranks"); fi
fi
step() { say "$*"; "$@"; }
step voxtal round --run "$run" --until structures
step "${everywhere[@]}" voxelize --run "$run"
step "${training[@]}" voxtal train all --run "$run"
step "${everywhere[@]}" voxtal generate --run "$run" -n "$attempts"
step "${everywhere[@]}" voxtal evaluate --run "$run"
step voxtal evaluate --run "$run" --relax "$relaxed" --baseline substitution
python benchmarks/periodic_table.py "$run"
