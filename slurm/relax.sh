#!/usr/bin/env bash
# Relaxes the newest round's selected candidates and whatever else waits in the run's ledger. Every task of the array
# takes the next one that is free, until none is left; the next `voxtal round` collects the results.
#   RUN=runs/co-hf sbatch --array=0-15 --cpus-per-task=16 slurm/relax.sh
# Environment:
#   RUN           run directory; the one that the job is submitted from if not given
#   VOXTAL_ENV    virtual environment, or a file to source (modules, conda); the project's .venv if not given
#   VOXTAL_ROOT   the project's folder, where Slurm cannot tell it
#SBATCH --job-name=relax
#SBATCH --array=0-3
#SBATCH --ntasks=1
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.out
root=${VOXTAL_ROOT:-$(dirname "${BASH_SOURCE[0]}")/..}
if [ ! -f "$root/slurm/_common.sh" ]; then # sbatch runs a copy: ask where the script came from
    root=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's|^ *Command=\(.*\)/slurm/.*|\1|p' | head -n 1)
fi
[ -f "$root/slurm/_common.sh" ] || { echo "voxtal: set VOXTAL_ROOT to the project's folder" >&2; exit 2; }
# shellcheck source=slurm/_common.sh
. "$root/slurm/_common.sh"

here voxtal relax --queue --run "$RUN"
