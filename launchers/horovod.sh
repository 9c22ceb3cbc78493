#!/usr/bin/env bash
# Runs a command on N ranks of this machine under horovodrun, which needs no MPI at run time (Gloo).
# Usage: launchers/horovod.sh N COMMAND...    (for example: launchers/horovod.sh 2 voxtal train sites-ae --run RUN)
# Over MPI instead: launchers/mpi.sh N COMMAND...
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$PWD
cd "$root"
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
# shellcheck source=launchers/_ranks.sh
. launchers/_ranks.sh
use_environment
cd "$here"
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    stop "wrong use. Write: launchers/horovod.sh N COMMAND..., with N the number of ranks"
fi
command -v horovodrun >/dev/null ||
    stop "there is no horovodrun. hpc/install/horovod.sh builds it; launchers/torchrun.sh needs no Horovod"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
ranks=$1
shift
run_ranks "$root" horovodrun --gloo -np "$ranks" -- "$@"
