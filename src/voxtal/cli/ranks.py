"""Commands that run under mpirun: rank 0 speaks, and an error of one rank ends all with the same exit code."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from voxtal.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, Interrupted, UserError
from voxtal.parallel.communicator import Communicator, report_crash


@contextmanager
def together(communicator: Communicator) -> Iterator[None]:
    """Errors that every rank has are told by rank 0; one that the others cannot know of ends them."""
    try:
        yield
    except typer.Exit:
        raise  # a verdict that every rank has reached
    except (UserError, Interrupted, OSError) as error:
        if communicator.rank == 0:
            raise
        time.sleep(1)  # a launcher ends all ranks when the first one fails: let rank 0 speak
        raise typer.Exit(_exit_code(error)) from None
    except Exception:
        if communicator.size == 1:
            raise
        report_crash(communicator)
        communicator.abort(EXIT_FAILED)


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return EXIT_USAGE
    return EXIT_RESUMABLE if isinstance(error, Interrupted) else EXIT_FAILED
