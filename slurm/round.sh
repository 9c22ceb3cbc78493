#!/usr/bin/env bash
# One active-learning round.
#   RUN=runs/co-hf slurm/round.sh [SBATCH_OPTION...]      a chain of jobs, each stage with what it needs
#   RUN=runs/co-hf sbatch slurm/round.sh [--until STAGE]  all that is not done yet, in this one job
# A chain whose job fails ends there; submit it again and what is done is passed over.
# Environment:
#   RUN           run directory; the one that the job is submitted from if not given
#   VOXTAL_ENV    virtual environment, or a file to source (modules, conda); the project's .venv if not given
#   VOXTAL_ROOT   the project's folder, where Slurm cannot tell it
#SBATCH --job-name=round
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --time=04:00:00
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

if [ -n "${SLURM_JOB_ID:-}" ]; then
    here voxtal round --run "$RUN" "$@"
    exit
fi

jobs=()
queue() { # [SBATCH_OPTION...] SCRIPT [ARGUMENT...]: submits it to start when the job before it has ended well
    local after=() job
    if [ ${#jobs[@]} -gt 0 ]; then after=("--dependency=afterok:${jobs[-1]}" --kill-on-invalid-dep=yes); fi
    if ! job=$(sbatch --parsable "${after[@]}" "$@"); then
        scancel "${jobs[@]}" 2>/dev/null || true
        stop "sbatch refused a job (see above); nothing is queued"
    fi
    jobs+=("${job%%;*}")
}
SLURM_SUBMIT_DIR=$PWD use_run
root=$(cd "$root" && pwd)
export RUN VOXTAL_ROOT=$root
if [ ! -f "$RUN/round-000/structures.h5" ]; then queue "$@" "$root/slurm/round.sh" --until structures; fi
train=train_ccdcgan
if grep -Eq "^[^#]*generator *= *[\"']icsg3d[\"']" "$RUN/voxtal.toml"; then
    train=train_icsg3d
    export MODELS=${MODELS:-all} # what the round needs, be it of more properties
fi
for stage in voxelize "$train" generate relax round; do queue "$@" "$root/slurm/$stage.sh"; done
echo "voxtal: submitted ${jobs[*]}; see squeue, and voxtal status --run $RUN"
