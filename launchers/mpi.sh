#!/usr/bin/env bash
# Runs a command on N ranks of this machine, with the settings that Open MPI 4 and 5 need there.
# Usage: launchers/mpi.sh N COMMAND...    (for example: launchers/mpi.sh 4 voxelize --run runs/co-hf)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$PWD
cd "$root"
# shellcheck source=launchers/_environment.sh
. launchers/_environment.sh
use_environment
mpi_settings
cd "$here"
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
    stop "wrong use. Write: launchers/mpi.sh N COMMAND..., with N the number of ranks"
fi
command -v mpirun >/dev/null ||
    stop "there is no mpirun. launchers/quickstart.sh installs one into .venv; on a cluster, load its MPI module"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec mpirun -n "$@"
