"""Stop requests: Ctrl-C, SIGTERM, and SIGUSR1, with which Slurm warns before the time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def deferred_stop() -> Iterator[Callable[[], str | None]]:
    """While the block runs, a stop signal is only noted; the yielded function names it, or gives None.

    For loops that must finish their step and write a checkpoint first. Outside the main thread, where
    Python delivers no signals, nothing is changed.
    """
    noted: list[str] = []

    def note(number: int, _frame: Any) -> None:
        noted.append(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield lambda: noted[0] if noted else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
