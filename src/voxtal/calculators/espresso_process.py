"""pw.x as a process: it stops itself in time, and never outlives voxtal."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from voxtal.calculators.espresso_output import version_in
from voxtal.errors import Interrupted
from voxtal.parallel.launch import end_with_parent, outside_of_ranks

STOPPING_SECONDS = 180
"""Before a job's end, for pw.x to write its files (in short jobs a tenth of them): more than the two minutes before
the end at which batch scripts let Slurm warn them."""
STOPPED_BY = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals with which a user or a scheduler stops a whole job; a calculation that fails is killed by others."""

_VERSION_SECONDS = 60


def executable_of(command: str) -> str | None:
    """Path of pw.x in a command with launcher and options, or None."""
    words = [word for word in shlex.split(command) if Path(word).name.startswith("pw")]
    return shutil.which(words[-1]) if words else None


@functools.cache
def version_of(executable: str) -> str:
    """Version that a pw.x without input tells, or an empty string."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            asked = subprocess.run(
                [executable],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                cwd=folder,
                timeout=_VERSION_SECONDS,
                env=outside_of_ranks(os.environ),
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
    return version_in(asked.stdout.decode(errors="replace"))


def time_limit(walltime_seconds: int | None) -> int | None:
    """What to set ``max_seconds`` to: nine tenths of the attempt's time, and no more than the Slurm job has left.

    Raises
    ------
    Interrupted
        The job has no time left.
    """
    limits = [] if walltime_seconds is None else [0.9 * walltime_seconds]
    end = os.environ.get("SLURM_JOB_END_TIME")
    if end:
        stopping = min(STOPPING_SECONDS, 0.1 * (float(end) - float(os.environ.get("SLURM_JOB_START_TIME", 0))))
        left = float(end) - time.time()
        if left < 2 * stopping:
            # A worker that ends by itself would count as killed by its calculation, which is then given up.
            wait_to_be_stopped(left + stopping, "The job has no time left for another run of pw.x.")
        limits.append(left - stopping)
    return max(1, int(min(limits))) if limits else None


def run(command: str, folder: Path, timeout: float | None) -> int:
    """Run ``command`` on ``folder``'s pw.in into its pw.out and pw.err; the exit code, negative for a signal.

    Raises
    ------
    Interrupted
        It was stopped by a signal that means all of the job.
    """
    with open(folder / "pw.out", "wb") as out, open(folder / "pw.err", "wb") as err:
        process = subprocess.Popen(
            [*shlex.split(command), "-in", "pw.in"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for voxtal, which stops pw.x when it stops
            preexec_fn=_die_with(os.getpid()),
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    if code is None:
        return -signal.SIGKILL
    number = -code if code < 0 else code - 128
    if number in STOPPED_BY:
        wait_to_be_stopped(60.0, f"pw.x was stopped by {signal.Signals(number).name}.")
    return code


def wait_to_be_stopped(seconds: float, why: str) -> None:
    """Wait for whoever stops this job to stop this process too; raise Interrupted if nobody does."""
    time.sleep(max(0.0, seconds))
    raise Interrupted(why)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, and the ranks that its launcher started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _die_with(parent: int) -> Callable[[], None]:
    """What the child does before it becomes pw.x: Linux ends it when its parent dies, by SIGKILL too."""

    def prepare() -> None:
        for number in STOPPED_BY:  # a worker ignores them, and a child would inherit that
            signal.signal(number, signal.SIG_DFL)
        end_with_parent()  # by SIGTERM, which mpirun and srun pass on to their ranks
        if os.getppid() != parent:
            os._exit(1)

    return prepare
