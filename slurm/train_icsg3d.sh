#!/usr/bin/env bash
# Trains ICSG3D's networks in turn; survives preemption, and requeues itself before its time limit.
#   RUN=runs/co-hf sbatch --nodes=4 --ntasks-per-node=4 --gpus-per-node=4 slurm/train_icsg3d.sh
# One task per GPU, or without GPUs as many as you like. Submit it again at any time: it carries on where it stopped.
# Environment:
#   MODELS        which ones; "unet vae cgcnn" if not given, all: those that a round of icsg3d needs
#   PARALLEL      none, ddp, horovod, or auto: Horovod where it is installed, else ddp
#   RUN           run directory; the one that the job is submitted from if not given
#   VOXTAL_ENV    virtual environment, or a file to source (modules, conda); the project's .venv if not given
#   VOXTAL_ROOT   the project's folder, where Slurm cannot tell it
#   SLURM_MPI_TYPE   what srun --mpi is given; pmix if not given and there
#SBATCH --job-name=train_icsg3d
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
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

for model in ${MODELS:-unet vae cgcnn}; do
    step voxtal train "$model" --run "$RUN" --parallel "${PARALLEL:-auto}"
done
