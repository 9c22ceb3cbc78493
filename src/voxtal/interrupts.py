"""Stop requests: Ctrl-C, SIGTERM, and SIGUSR1, with which Slurm warns before the time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stops:
    """Stop signals that are noted instead of heeded. Called, it names the first one, or gives None."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self._previous: dict[int, Any] = {}

    def __call__(self) -> str | None:
        return signal.Signals(self._noted[0]).name if self._noted else None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Within the block, signals do what they did before."""
        self._heed()
        try:
            yield
        finally:
            self._defer()

    def send_again(self) -> None:
        """Send what was noted to this process once more, for whoever heeds it now."""
        if self._noted:
            signal.raise_signal(self._noted[0])

    def _defer(self) -> None:
        for number in self._previous:
            signal.signal(number, lambda number, _frame: self._noted.append(number))

    def _heed(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


@contextmanager
def deferred_stop() -> Iterator[Stops]:
    """While the block runs, a stop signal is only noted.

    For loops that must finish their step and write a checkpoint first, and for what other ranks wait for. Outside the
    main thread, where Python delivers no signals, nothing is changed.
    """
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    stops._previous = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    stops._defer()
    try:
        yield stops
    finally:
        stops._heed()
