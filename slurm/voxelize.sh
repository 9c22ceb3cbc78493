#!/usr/bin/env bash
# The newest round's structures to voxels. Any number of tasks writes the same files; more tasks are faster.
#   RUN=runs/co-hf sbatch --ntasks=256 slurm/voxelize.sh
# Environment:
#   RUN           run directory; the one that the job is submitted from if not given
#   VOXTAL_ENV    virtual environment, or a file to source (modules, conda); the project's .venv if not given
#   VOXTAL_ROOT   the project's folder, where Slurm cannot tell it
#SBATCH --job-name=voxelize
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

step voxelize --run "$RUN"
