#!/usr/bin/env bash
# Generates candidates with the newest round's trained models, judges them and selects what is to be relaxed.
#   RUN=runs/co-hf sbatch --ntasks=16 slurm/generate.sh [OPTION...]
# Options go to `voxtal generate`, such as -n 50000 --system Co-Hf. Attempts of which something is asked for, which have a
# name or another model are not the round's own: they are generated only.
# Environment:
#   RUN           run directory; the one that the job is submitted from if not given
#   VOXTAL_ENV    virtual environment, or a file to source (modules, conda); the project's .venv if not given
#   VOXTAL_ROOT   the project's folder, where Slurm cannot tell it
#SBATCH --job-name=generate
#SBATCH --ntasks=4
#SBATCH --time=01:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
root=${VOXTAL_ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}
if [ ! -f "$root/slurm/_common.sh" ]; then # sbatch runs a copy: ask where the script came from
    root=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's|^ *Command=\(.*\)/slurm/.*|\1|p' | head -n 1)
fi
[ -f "$root/slurm/_common.sh" ] || { echo "voxtal: set VOXTAL_ROOT to the project's folder" >&2; exit 2; }
# shellcheck source=slurm/_common.sh
. "$root/slurm/_common.sh"

step voxtal generate --run "$RUN" "$@"
for option in "$@"; do
    case $option in
        --system* | --elements* | --exclude* | --max-atoms* | --name*) exit ;;
        --model* | --decile* | --condition* | --around* | --between*) exit ;;
    esac
done
step voxtal evaluate --run "$RUN"
