"""What every verb shares: options, the run directory, exit codes, signals, progress."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtal.errors import EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, Interrupted, UserError

if TYPE_CHECKING:
    from voxtal.runs import Run

RunOption = Annotated[
    Path, typer.Option("--run", metavar="DIR", help="Run directory, the one that holds voxtal.toml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override the configuration: section.key=value. Repeatable."),
]
RoundOption = Annotated[
    int | None, typer.Option("--round", metavar="N", help="Round to work on; the newest one if not given.")
]


def open_run(directory: Path, overrides: list[str] | None = None) -> Run:
    """Load ``voxtal.toml`` of ``directory`` and apply ``--set`` overrides."""
    from voxtal.config import CONFIG_NAME, load_config
    from voxtal.runs import Run

    return Run(directory, load_config(directory / CONFIG_NAME, overrides or ()))


def run_command(command: Callable[[], Any]) -> int:
    """Call ``command`` and turn what it raises into the exit codes of docs/conventions.md."""
    try:
        with stop_signals():
            command()
    except UserError as error:
        print(f"voxtal: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (Interrupted, KeyboardInterrupt) as error:
        detail = str(error) or "interrupted"
        print(f"voxtal: stopped early ({detail}). Run the same command again to carry on.", file=sys.stderr)
        return EXIT_RESUMABLE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(
            f"voxtal: {error.strerror}{where}. What was finished is kept; make room or choose another "
            "--run directory, then run the same command again.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    return 0


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGUSR1 (Slurm's warning before the time limit) into :class:`Interrupted`."""

    def stop(number: int, _frame: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
