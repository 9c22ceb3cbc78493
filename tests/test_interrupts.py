"""Stop signals that wait for the end of a step."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from voxtal.interrupts import STOP_SIGNALS, deferred_stop


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signal_is_noted_and_nothing_is_broken_off(number: int) -> None:
    """A step that is cut in two, or a signal that is forgotten."""
    with deferred_stop() as stop:
        assert stop() is None
        os.kill(os.getpid(), number)
        assert stop() == signal.Signals(number).name
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() == signal.Signals(number).name


def test_handlers_are_put_back_after_an_error() -> None:
    """A process that can no longer be stopped."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(ValueError, match="step failed"):
        with deferred_stop():
            raise ValueError("step failed")
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_ignored_signal_stays_ignored() -> None:
    """``nohup voxtal train &`` ignores SIGINT: Ctrl-C for another job must not stop it."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with deferred_stop() as stop:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop() is None
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_nothing_is_changed() -> None:
    """Python delivers signals to the main thread alone; installing a handler elsewhere raises."""
    answers: list[str | None] = []

    def work() -> None:
        with deferred_stop() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [None]
