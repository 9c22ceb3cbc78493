# shellcheck shell=bash
# Sourced by the batch scripts: the environment, one step at a time, and what to do when the job must stop.
set -euo pipefail
stop() { printf 'voxtal: %s\n' "$*" >&2; exit 2; }

# Slurm ends a job in two ways. USR1 is its warning before the time limit (--signal=B:USR1@...): this shell alone gets
# it, tells every rank through srun, and puts the job back into the queue. TERM comes when the job is cancelled,
# preempted or requeued by somebody: every rank has it already, and whether the job comes back is Slurm's decision.
signal="" pid=""
on_signal() { # srun passes USR1 on to its ranks, while TERM would end srun itself
    signal=$1
    if [ -n "$pid" ]; then kill -USR1 "$pid" 2>/dev/null || true; fi
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM

use_environment() { # VOXTAL_ENV: a file to source (modules, conda), or a virtual environment; else the project's .venv
    local environment=${VOXTAL_ENV:-}
    # shellcheck disable=SC2154 # the script that sources this file knows root
    if [ -z "$environment" ] && [ -d "$root/.venv" ]; then environment=$root/.venv; fi
    if [ -n "$environment" ]; then
        if [ -d "$environment/bin" ]; then environment=$environment/bin/activate; fi
        [ -f "$environment" ] || stop "VOXTAL_ENV=$environment is neither a file to source nor a virtual environment"
        set +eu # a site's files are not written for them
        # shellcheck source=/dev/null
        . "$environment"
        set -eu
    fi
    command -v voxtal >/dev/null ||
        stop "there is no voxtal on PATH; set VOXTAL_ENV to a virtual environment, or to a file that loads modules"
}

use_run() { # RUN: the run directory
    RUN=${RUN:-$SLURM_SUBMIT_DIR}
    [ -f "$RUN/voxtal.toml" ] ||
        stop "$RUN holds no voxtal.toml; submit from the run directory, or name it: RUN=/path/to/run sbatch ..."
}

# When a rank dies the others have 30 s to say what they see. Killing them at once would also turn the 75 of a rank that
# stopped in order into a 137 of those that were about to.
step() { launch "$*" srun --kill-on-bad-exit=0 --wait=30 "$@"; } # [SRUN_OPTION...] COMMAND...: on the job's tasks
here() { launch "$*" "$@"; } # COMMAND...: on this node, for what starts programs by srun or mpirun itself
launch() { # NAME COMMAND...: runs it; does not return when it failed or must stop
    local name=$1 code=0; shift
    if [ -n "$signal" ]; then finish_early; fi
    echo "voxtal: $name (${SLURM_NTASKS:-1} tasks on ${SLURM_JOB_NODELIST:-this node})"
    "$@" &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" || true; done # a signal ends the wait, not the command
    wait "$pid" || code=$?
    pid=""
    case $code in
        0) return ;;
        75 | 138) finish_early ;; # 138: USR1 found a rank that was not ready for it yet
    esac
    printf 'voxtal: "%s" failed with code %s; what was finished is kept\n' "$name" "$code" >&2
    exit "$code"
}

finish_early() {
    local id=$SLURM_JOB_ID
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    if [ "$signal" = TERM ]; then
        echo "voxtal: job $id was ended from outside; what was finished is kept"
    elif (trap '' TERM; exec scontrol requeue "$id"); then # Slurm sends TERM before it answers
        echo "voxtal: job $id was warned, stopped in order and requeued; it carries on where it stopped"
    else
        echo "voxtal: job $id cannot be requeued here; submit it again to carry on" >&2
    fi
    exit 75
}

if [ -n "${SLURM_JOB_ID:-}" ]; then
    use_environment
    use_run
    export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun does not take it from sbatch
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
    if [ -z "${SLURM_MPI_TYPE:-}" ] && srun --mpi=list 2>&1 | grep -qw pmix; then export SLURM_MPI_TYPE=pmix; fi
fi
