"""Commands that run under mpirun: rank 0 speaks, and an error of one rank ends all with the same exit code."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from voxtal.cli.common import run_command
from voxtal.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, Interrupted, RankLost, UserError
from voxtal.parallel.communicator import Ranks, end_with_launcher, launcher_rank, report_crash, tell

_DEAD_RANK_SEEN_SECONDS = 3
"""A launcher names the first rank that it sees end: the one that was lost, not the one that tells of it."""


def enter(app: Callable[[], object]) -> NoReturn:
    """Run a program to its exit code, as one of the ranks that a launcher started or alone.

    Wrong options are wrong on every rank: the others are silent, and leave rank 0 the time to speak.
    """
    end_with_launcher()
    # before torch is loaded: threads that wait by spinning lose their core's time slice where another program runs
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    follows = launcher_rank() > 0
    if follows:  # a crash is written to the real stderr
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        code: Any = run_command(app)
    except SystemExit as stop:
        code = stop.code
    if follows and code:
        # A launcher ends all ranks when the first one fails. Without MPI each finds wrong use by itself, and rank 0 may
        # be seconds behind in loading modules.
        time.sleep(10 if code == EXIT_USAGE and "mpi4py.MPI" not in sys.modules else 1)
    sys.exit(code)


@contextmanager
def together(communicator: Ranks) -> Iterator[None]:
    """Errors that every rank has are told by rank 0; one that the others cannot know of ends them."""
    try:
        yield
    except typer.Exit:
        raise  # a verdict that every rank has reached
    except (UserError, Interrupted, OSError) as error:
        if communicator.rank == 0:
            raise
        raise typer.Exit(_exit_code(error)) from None
    except RankLost as error:
        tell(f"voxtal: {error}")
        time.sleep(_DEAD_RANK_SEEN_SECONDS)
        communicator.abort(EXIT_FAILED)
    except Exception:
        if communicator.size == 1:
            raise
        report_crash(communicator)
        communicator.abort(EXIT_FAILED)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return EXIT_USAGE
    return EXIT_RESUMABLE if isinstance(error, Interrupted) else EXIT_FAILED
