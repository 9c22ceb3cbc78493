"""A worker process: takes structures from its pipe, relaxes them, sends back plain results."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.registry import get_calculator
from voxtal.workflows.plain import structure_from_text, structure_to_text

READY = "ready"
RESULT = "result"
BROKEN = "broken"
"""Messages are pairs (kind, value): nothing; the keyword arguments of ``Ledger.finish``; a traceback."""


def work(connection: Connection, calculator_name: str, settings: RelaxSettings) -> None:
    """Serve one pipe until it is closed. An exception of the calculator itself is sent and ends the worker."""
    # The parent alone answers signals, which a terminal or Slurm sends to all: it ends its workers itself.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        calculator = get_calculator(calculator_name)
        connection.send((READY, None))
        while True:
            text = connection.recv()
            result = calculator.relax(structure_from_text(text), settings)
            connection.send((RESULT, _plain(result)))
    except (EOFError, BrokenPipeError):
        return
    except Exception:
        connection.send((BROKEN, traceback.format_exc()))


def _plain(result: Any) -> dict[str, Any]:
    return {
        "status": result.status,
        "reason": result.reason,
        "relaxed": None if result.structure is None else structure_to_text(result.structure),
        "energy_per_atom": result.energy_per_atom,
        "energy_per_atom_before": result.energy_per_atom_before,
        "steps": result.steps,
        "wall_seconds": result.wall_seconds,
    }


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
