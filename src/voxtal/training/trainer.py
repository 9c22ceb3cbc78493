"""The training loop: steps, metrics, checkpoints, stops and resumption, for any task.

Step ``i`` of a task depends on the seed and ``i`` alone (its batch, noise and dropout), so a run that was
killed and resumed has the losses of one that was not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from voxtal.errors import Interrupted, UserError
from voxtal.interrupts import deferred_stop
from voxtal.runs import atomic_path, read_json, write_json
from voxtal.training.checkpoint import load_checkpoint, save, save_checkpoint

LOG_EVERY_STEPS = 10
TRAINED = "trained.json"


class Task(Protocol):
    """What the loop trains: networks, their optimizers, and one pure-by-seed step."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    steps: int

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        """Do step ``index``; every random choice from ``rng`` or torch's global generator. Returns the losses."""
        ...

    def validate(self) -> float | None:
        """Score of the present weights, lower is better; None where the last weights are the ones to keep."""
        ...

    def export(self) -> dict[str, Any]:
        """What later stages need: weights and the sizes to build the network from."""
        ...


def train(
    task: Task,
    folder: Path,
    seed: int,
    fingerprint: str,
    checkpoint_every: int,
    progress: Callable[[int, str], None] = lambda _n, _text: None,
) -> None:
    """Train ``task`` in ``folder``, from its newest checkpoint if there is one, and write ``best.pt``.

    Parameters
    ----------
    fingerprint
        Hash of data and settings; a checkpoint of another one is refused.
    checkpoint_every
        Steps between checkpoints; the score that chooses ``best.pt`` is taken then too.

    Raises
    ------
    Interrupted
        A stop signal came; the step was finished and a checkpoint written.
    UserError
        The folder holds a checkpoint of other data or settings.
    """
    checkpoints, metrics = folder / "checkpoints", folder / "metrics.jsonl"
    start, best, seconds = _resume(task, folder, fingerprint)
    _truncate_metrics(metrics, start)
    progress(start, "")
    began = time.monotonic() - seconds
    with deferred_stop() as stop_signal, open(metrics, "a", buffering=1) as log:
        for index in range(start, task.steps):
            losses = _seeded_step(task, index, seed)
            done = index + 1
            stop = stop_signal()
            if done % LOG_EVERY_STEPS == 0 or done == task.steps:
                elapsed = round(time.monotonic() - began, 3)
                log.write(json.dumps({"step": done, "steps": task.steps, "seconds": elapsed, **losses}) + "\n")
            regular = done % checkpoint_every == 0 or done == task.steps
            if regular:  # not at a stop: a run that was stopped keeps the same weights as one that was not
                best = _keep_best(task, folder, best)
            if regular or stop:
                save_checkpoint(
                    checkpoints,
                    done,
                    {
                        "fingerprint": fingerprint,
                        "best": best,
                        "seconds": time.monotonic() - began,
                        "modules": {name: module.state_dict() for name, module in task.modules.items()},
                        "optimizers": {name: opt.state_dict() for name, opt in task.optimizers.items()},
                    },
                )
            progress(1, "  ".join(f"{name} {value:.4g}" for name, value in losses.items()))
            if stop and done < task.steps:
                raise Interrupted(f"{stop} after step {done} of {task.steps}")
        write_json(folder / TRAINED, {"fingerprint": fingerprint, "steps": task.steps})
        if stop := stop_signal():
            raise Interrupted(f"{stop} after the last step of {task.steps}")


def is_trained(folder: Path, fingerprint: str) -> bool:
    """Whether ``folder`` holds a finished training of exactly these data and settings."""
    marker = folder / TRAINED
    return marker.is_file() and read_json(marker).get("fingerprint") == fingerprint


def batch_rows(n: int, batch_size: int, index: int, seed: int) -> np.ndarray:
    """Rows (batch,) of step ``index``: epochs are permutations of ``n`` rows, the incomplete batch left out."""
    size = min(n, batch_size)
    per_epoch = n // size
    epoch, position = divmod(index, per_epoch)
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return order[position * size : (position + 1) * size]


def cosine_rate(base: float, index: int, steps: int, warmup: float = 0.05) -> float:
    """Learning rate of step ``index``: linear warm-up over a share of the steps, then half a cosine to zero."""
    ramp = max(1, round(warmup * steps))
    if index < ramp:
        return base * (index + 1) / ramp
    return base * 0.5 * (1 + float(np.cos(np.pi * (index - ramp) / max(1, steps - ramp))))


def _seeded_step(task: Task, index: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, index, 1])
    torch.manual_seed(int(rng.integers(2**62)))
    return task.step(index, rng)


def _resume(task: Task, folder: Path, fingerprint: str) -> tuple[int, float | None, float]:
    state = load_checkpoint(folder / "checkpoints")
    if state is None:
        return 0, None, 0.0
    if state["fingerprint"] != fingerprint:
        raise UserError(
            f"{folder} holds a checkpoint made with other data or settings. Delete that folder to train anew, "
            "or restore the configuration that it was made with."
        )
    for name, module in task.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, optimizer in task.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    return state["step"], state["best"], state["seconds"]


def _keep_best(task: Task, folder: Path, best: float | None) -> float | None:
    score = task.validate()
    if score is None or best is None or score < best:
        save(folder / "best.pt", task.export())
        return score
    return best


def _truncate_metrics(path: Path, steps: int) -> None:
    """Drop the lines that a killed run wrote after its last checkpoint."""
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
