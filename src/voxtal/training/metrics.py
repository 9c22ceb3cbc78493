"""What a training writes down as it goes: ``metrics.jsonl``, and TensorBoard's files with the same numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxtal.runs import atomic_path

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Metrics:
    """The log of a training that goes on after ``start`` steps, ``seconds`` of which are spent.

    What a killed run wrote after its last checkpoint is dropped.
    """

    def __init__(self, folder: Path, steps: int, start: int, seconds: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _truncate(folder / METRICS, start)
        self.steps = steps
        self._began = time.monotonic() - seconds
        self._lines = open(folder / METRICS, "a", buffering=1)  # noqa: SIM115
        self._events = SummaryWriter(str(folder / TENSORBOARD), purge_step=start + 1)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._events.close()

    @property
    def seconds(self) -> float:
        """Spent on training, over all starts."""
        return time.monotonic() - self._began

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One line for ``step``, counted from 1."""
        line: dict[str, Any] = {"step": step, "steps": self.steps, "seconds": round(self.seconds, 3), **values}
        self._lines.write(json.dumps(line) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)


def _truncate(path: Path, steps: int) -> None:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= steps:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))
