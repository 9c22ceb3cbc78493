"""What every verb shares: options, the run directory, exit codes, signals, progress, tables."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from voxtal.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, EXIT_USAGE, Interrupted, UserError

if TYPE_CHECKING:
    from voxtal.runs import RoundPaths, Run

RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="Run directory, the one that holds voxtal.toml.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting: section.key=value. Repeatable."),
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
    except Exception as error:
        problem = _storage_problem(error)
        if problem is None:
            raise
        print(
            f"voxtal: {problem}. What was finished is kept; make room or choose another place, "
            "then run the same command again.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    return EXIT_DONE


_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG)


def _storage_problem(error: BaseException) -> str | None:
    """What the disk refused, or None where ``error`` is about something else.

    Only Python's own files raise OSError with the number set; the libraries below say it in words.
    """
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    text = str(error)
    if "No space left on device" in text or "errno = 28" in text:  # HDF5
        return "No space left on device"
    if "database or disk is full" in text or "disk I/O error" in text:  # SQLite
        return f"The ledger cannot be written ({text})"
    if "PytorchStreamWriter" in text or "inline_container" in text:  # torch.save
        return "A checkpoint cannot be written; the disk is probably full"
    cause = error.__cause__ or error.__context__
    return _storage_problem(cause) if cause is not None else None


@contextmanager
def stop_signals() -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and SIGUSR1 (Slurm's warning before the time limit) into :class:`Interrupted`.

    Ctrl-C is taken here too because typer would end the process on KeyboardInterrupt with a code of its own.
    A signal that the parent had ignored (``nohup``, ``&``) stays ignored. One that is swallowed where it
    arrives (a library's ``except``, a ``__del__``) is sent again as soon as its exception is forgotten; Python's
    own "Exception ignored in" is left out for it, as nothing is ignored and its traceback would look like a fault.
    """

    def stop(number: int, _frame: Any) -> None:
        error = Interrupted(signal.Signals(number).name)
        weakref.finalize(error, send_again_soon, number).atexit = False
        try:
            raise error
        finally:
            del error  # or the traceback would keep it alive

    def send_again_soon(number: int) -> None:  # not now: what a finalizer raises is swallowed too
        timer = threading.Timer(0.05, send_again, (number,))
        timer.daemon = True
        timer.start()

    def send_again(number: int) -> None:
        if signal.getsignal(number) is stop:
            signal.pthread_kill(main_thread, number)

    def report_unless_stopped(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):
            previous_report(unraisable)

    main_thread = threading.main_thread().ident or 0
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    heeded = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, stop) for number in heeded}
    previous_report, sys.unraisablehook = sys.unraisablehook, report_unless_stopped
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        sys.unraisablehook = previous_report


class Advance(Protocol):
    """Reports ``n`` more steps done, with a word on the last one."""

    def __call__(self, n: int = 1, text: str = "") -> None: ...


SECONDS_BETWEEN_LINES = 5.0


def on_terminal() -> bool:
    """Whether a person watches stdout. Not under mpirun: it gives its ranks a terminal that may end in a file."""
    return sys.stdout.isatty() and "OMPI_COMM_WORLD_SIZE" not in os.environ


@contextmanager
def progress(what: str, total: int) -> Iterator[Advance]:
    """Show how far ``what`` is: a bar on a terminal, else a plain line at most every five seconds.

    Examples
    --------
    >>> with progress("relax", total=2) as advance:
    ...     advance(1, "CoHf")
    ...     advance(1, "Co2Hf")
    """
    with _bar(what, total) if on_terminal() else _lines(what, total) as advance:
        yield advance


@contextmanager
def _lines(what: str, total: int) -> Iterator[Advance]:
    started = printed = time.monotonic()
    done = 0

    def advance(n: int = 1, text: str = "") -> None:
        nonlocal done, printed
        done += n
        now = time.monotonic()
        if now - printed >= SECONDS_BETWEEN_LINES and done < total:
            printed = now
            left = (now - started) * (total - done) / done if done else None
            print(_line(what, done, total, f"about {duration(left)} left", text), flush=True)

    try:
        yield advance
    finally:
        print(_line(what, done, total, duration(time.monotonic() - started)), flush=True)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[text]}", style="dim", markup=False),
    )
    with Progress(*columns) as bars:
        task = bars.add_task(what, total=total, text="")

        def advance(n: int = 1, text: str = "") -> None:
            bars.advance(task, n)
            if text:
                bars.update(task, text=text)

        yield advance


def _line(what: str, done: int, total: int, *words: str) -> str:
    share = f" ({done / total:.0%})" if total else ""
    return ", ".join([f"{what}: {done}/{total}{share}", *(word for word in words if word)])


def duration(seconds: float | None) -> str:
    """Seconds as a person reads them: ``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: ruled on a terminal, aligned plain text elsewhere. Numbers are right-aligned."""
    cells = [[_text(value) for value in row] for row in rows]
    right = [bool(cells) and all(_is_number(row[k]) for row in cells) for k in range(len(columns))]
    if on_terminal():
        _print_rich_table(title, columns, cells, right)
        return
    widths = [max(len(row[k]) for row in [list(columns), *cells]) for k in range(len(columns))]
    print(title)
    for row in [list(columns), *cells]:
        aligned = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        print(("  " + "  ".join(aligned)).rstrip())
    sys.stdout.flush()


def _print_rich_table(
    title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for name, to_right in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if to_right else "left")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return str(value)


def _is_number(cell: str) -> bool:
    try:
        float(cell.rstrip("%"))
    except ValueError:
        return cell == "-"
    return True


def pick_round(run: Run, index: int | None) -> RoundPaths:
    """The round asked for, or the newest one that has structures.

    Raises
    ------
    UserError
        That round has no structures yet.
    """
    paths = run.latest_round() if index is None else run.round(index)
    if not paths.structures.is_file():
        raise UserError(
            f"{paths.structures} is not there yet: run `voxtal round`, or bring structures with "
            f"`voxtal import PATH -o {paths.structures}`."
        )
    return paths
