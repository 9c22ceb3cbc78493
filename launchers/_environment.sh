# shellcheck shell=bash
# Sourced by the launchers, in the project root: finds Python, makes .venv, sets up MPI for one machine.

MPI_EXTRA=mpi
if command -v mpirun | grep -qv "^$PWD/.venv/"; then MPI_EXTRA=; fi # a system MPI is used where there is one

say() { printf '== %s\n' "$*"; }
stop() { printf 'voxtal: %s\n' "$*" >&2; exit 2; }

find_python() { # prints a Python of at least 3.11 that can make environments
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "no Python 3.11 or newer with the venv module${PYTHON:+ (PYTHON=$PYTHON)}. Install one (Debian, Ubuntu:" \
        "python3 and python3-venv) or name one: PYTHON=/path/to/python3.12 $0"
}

wanted_environment() { cat setup.cfg pyproject.toml hpc/constraints-cpu.txt; pwd; }

prepare_environment() { # $1: extras besides the MPI, comma-separated, may be empty
    local extras python stamp wanted
    extras=$(printf '%s' "${1:+$1,}$MPI_EXTRA" | sed 's/,$//')
    stamp=.venv/.installed-${extras:-plain}
    wanted=$(wanted_environment)
    if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        say "environment: .venv is up to date"
        return
    fi
    python=$(find_python)
    say "environment: making .venv with $("$python" --version) (about 2 GB; the first time takes some minutes)"
    .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
    .venv/bin/python -m pip install --progress-bar off -c hpc/constraints-cpu.txt -e ".${extras:+[$extras]}" |
        while read -r line; do
            case "$line" in Collecting* | Building* | Installing* | Successfully*) printf '   %.100s\n' "$line" ;; esac
        done
    printf '%s\n' "$wanted" >"$stamp"
}

use_environment() { # puts .venv first on PATH, where there is one
    if [ -d .venv/bin ]; then export PATH="$PWD/.venv/bin:$PATH"; fi
}

mpi_settings() { # Open MPI 4 and 5 on one machine: more ranks than cores, root in containers, loopback only
    if [ -n "${SLURM_JOB_ID:-}" ]; then return; fi
    export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_mpi_yield_when_idle=1
    if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
}
