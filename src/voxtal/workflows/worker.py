"""A worker process: takes structures from its pipe, relaxes them, sends back plain results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.plain import plain_result
from voxtal.calculators.registry import get_calculator
from voxtal.structures.text import structure_from_text

READY = "ready"
RESULT = "result"
BROKEN = "broken"
"""Messages are pairs (kind, value): nothing; the keyword arguments of ``Ledger.finish``; a traceback."""


def work(connection: Connection, spec: CalculatorSpec, settings: RelaxSettings) -> None:
    """Serve one pipe until it is closed. An exception of the calculator itself is sent and ends the worker."""
    # The parent alone answers signals, which a terminal or Slurm sends to all: it ends its workers itself.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    os.setpgrp()  # what a calculator starts (pw.x, VASP) ends with its worker: the group is killed as a whole
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        calculator = get_calculator(spec)
        connection.send((READY, None))
        while True:
            text, folder = connection.recv()
            result = calculator.relax(structure_from_text(text), settings, Path(folder) if folder else None)
            connection.send((RESULT, plain_result(result)))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        connection.send((BROKEN, traceback.format_exc()))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
