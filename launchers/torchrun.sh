#!/usr/bin/env bash
# Runs a command on N ranks of this machine under torchrun (torch.distributed; needs neither MPI nor Horovod).
# Usage: launchers/torchrun.sh N COMMAND...    (for example: launchers/torchrun.sh 2 voxtal train sites-ae --run RUN)
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
    stop "wrong use. Write: launchers/torchrun.sh N COMMAND..., with N the number of ranks"
fi
command -v torchrun >/dev/null ||
    stop "there is no torchrun. launchers/quickstart.sh installs torch into .venv; on a cluster, load its module"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" GLOO_SOCKET_IFNAME="${GLOO_SOCKET_IFNAME:-lo}"
ranks=$1
shift
run_ranks "$root" torchrun --standalone --local-addr=localhost --no-python --nproc-per-node="$ranks" -- "$@"
