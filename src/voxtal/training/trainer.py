"""The training loop: steps, metrics, checkpoints, stops and resumption, for any task.

Step ``i`` of a task depends on the seed and ``i`` alone (its batch, noise and dropout), so a run that was
killed and resumed has the losses of one that was not, and but for the order of sums on any number of ranks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.errors import Interrupted, UserError
from voxtal.interrupts import deferred_stop
from voxtal.parallel.communicator import on_root
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.runs import read_json, write_json
from voxtal.training.checkpoint import load_checkpoint, save, save_checkpoint
from voxtal.training.device import device_name, keep_freed_memory, threads_for
from voxtal.training.metrics import Metrics

LOG_EVERY_STEPS = 10
TRAINED = "trained.json"


class Task(Protocol):
    """What the loop trains: networks, their optimizers, and one pure-by-seed step."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    steps: int
    parallel: DataParallel

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        """Do this rank's share of step ``index`` and return its losses.

        Every random choice is from ``rng`` or torch's generator, which are the same on all ranks.
        """
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

    Collective over the ranks of ``task.parallel``; rank 0 reads and writes the files.

    Parameters
    ----------
    fingerprint
        Hash of data and settings; a checkpoint of another one is refused.
    checkpoint_every
        Steps between checkpoints; the score that chooses ``best.pt`` is taken then too.

    Raises
    ------
    Interrupted
        A stop signal came, to any rank; the step was finished and a checkpoint written.
    UserError
        The folder holds a checkpoint of other data or settings.
    """
    keep_freed_memory()
    parallel = task.parallel
    parallel.prepare(task.modules.values(), task.optimizers.values())
    start, best, seconds = _resume(task, on_root(parallel, lambda: _checkpoint(folder, fingerprint)))
    progress(start, "")
    threads = threads_for(task.modules.values())
    with threads, deferred_stop() as stop_signal, _metrics(task, folder, start, seconds) as metrics:
        agreement = _Agreement(parallel, start)
        for index in range(start, task.steps):
            losses = _seeded_step(task, index, seed)
            done = index + 1
            signal = stop_signal()
            regular = done % checkpoint_every == 0 or done == task.steps
            stop = False
            if agreement.is_due(done) or regular:
                losses, stop = agreement.reach(done, losses, signal is not None)
            if metrics and (done % LOG_EVERY_STEPS == 0 or done == task.steps):
                metrics.write(done, losses)
            if regular:  # not at a stop: a run that was stopped keeps the same weights as one that was not
                best = on_root(parallel, partial(_keep_best, task, folder, best))
            if regular or stop:
                spent = metrics.seconds if metrics else 0.0
                on_root(parallel, partial(_save, task, folder, done, fingerprint, best, spent))
            progress(1, "  ".join(f"{name} {value:.4g}" for name, value in losses.items()))
            if stop and done < task.steps:
                raise Interrupted(f"{signal or 'a signal to another rank'} after step {done} of {task.steps}")
        on_root(parallel, lambda: _conclude(task, folder, fingerprint, metrics))
        if signal := stop_signal():
            raise Interrupted(f"{signal} after the last step of {task.steps}")


def _conclude(task: Task, folder: Path, fingerprint: str, metrics: Metrics | None) -> None:
    """Note that the training is at its end, with what it took; on rank 0."""
    device = next(parameter.device for module in task.modules.values() for parameter in module.parameters())
    taken = {"seconds": round(metrics.seconds, 1) if metrics else None, "ranks": task.parallel.size}
    write_json(
        folder / TRAINED,
        {"fingerprint": fingerprint, "steps": task.steps, **taken, "device": device_name(device)},
    )


_STOP, _SECONDS = "stop", "seconds"
_SHORT_STEP = 0.05
"""Seconds. Two or three milliseconds of waiting for each other would be much of a shorter step."""


class _Agreement:
    """Mean losses of all ranks, and whether any of them was told to stop: asked after every step, or if steps are short
    when losses are logged."""

    def __init__(self, parallel: DataParallel, done: int) -> None:
        self.parallel, self.done = parallel, done
        self.at, self.short = time.perf_counter(), False

    def is_due(self, done: int) -> bool:
        """The same on all ranks."""
        return not self.short or done % LOG_EVERY_STEPS == 0

    def reach(self, done: int, losses: dict[str, float], told_to_stop: bool) -> tuple[dict[str, float], bool]:
        """After step ``done``: mean losses, and whether to stop. Collective."""
        now = time.perf_counter()
        seconds = (now - self.at) / (done - self.done)
        means = self.parallel.mean({**losses, _STOP: float(told_to_stop), _SECONDS: seconds})
        stop = means.pop(_STOP) > 0
        self.short = means.pop(_SECONDS) < _SHORT_STEP and self.parallel.size > 1
        self.at, self.done = now, done
        return means, stop


def _metrics(task: Task, folder: Path, start: int, seconds: float) -> AbstractContextManager[Metrics | None]:
    """Rank 0's log."""
    return nullcontext() if task.parallel.rank else Metrics(folder, task.steps, start, seconds)


def is_trained(folder: Path, fingerprint: str) -> bool:
    """Whether ``folder`` holds a finished training of exactly these data and settings."""
    marker = folder / TRAINED
    return marker.is_file() and read_json(marker).get("fingerprint") == fingerprint


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` holds a network, and not one whose training was stopped before its end."""
    begun = (folder / "checkpoints").is_dir() and not (folder / TRAINED).is_file()
    return (folder / "best.pt").is_file() and not begun


def batch_rows(n: int, batch_size: int, index: int, seed: int, work: np.ndarray | None = None) -> np.ndarray:
    """Rows (batch,) of step ``index``: epochs are permutations of ``n`` rows, the incomplete batch left out.

    With the ``work`` (n,) that each row makes, they are in an order whose parts make about the same, whatever the
    number of ranks that they are shared by: all wait for the one with the most.
    """
    size = min(n, batch_size)
    per_epoch = n // size
    epoch, position = divmod(index, per_epoch)
    order = _permutation(n, seed, epoch)
    rows = order[position * size : (position + 1) * size]
    return rows if work is None else rows[np.argsort(work[rows], kind="stable")][_dealt(size)]


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n)


@lru_cache(maxsize=4)
def _dealt(n: int) -> np.ndarray:
    """0 to n - 1 as dealt to and fro: one half has 0, 3, 4, 7 and so on, the other 1, 2, 5, 6, and each is dealt again.
    That is the order of their Gray codes' bits, read backwards."""
    gray = np.arange(n) ^ np.arange(n) >> 1
    bits = gray[:, None] >> np.arange(max(1, (n - 1).bit_length())) & 1
    return np.lexsort(bits.T[::-1])


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, share: Share) -> None:
    """One step down the gradient of the mean over all ranks of ``loss``, a mean over ``share``."""
    optimizer.zero_grad(set_to_none=True)
    (loss * share.weight).backward()
    optimizer.step()


def cosine_rate(base: float, index: int, steps: int, warmup: float = 0.05) -> float:
    """Learning rate of step ``index``: linear warm-up over a share of the steps, then half a cosine to zero."""
    ramp = max(1, round(warmup * steps))
    if index < ramp:
        return base * (index + 1) / ramp
    return base * 0.5 * (1 + float(np.cos(np.pi * (index - ramp) / max(1, steps - ramp))))


def _seeded_step(task: Task, index: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, index, 1])
    drawn = int(rng.integers(2**62))
    torch.default_generator.manual_seed(drawn)  # not torch's for all devices: without a GPU it takes 1 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(drawn)
    return task.step(index, rng)


def _checkpoint(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    state = load_checkpoint(folder / "checkpoints")
    if state is not None and state["fingerprint"] != fingerprint:
        raise UserError(
            f"{folder} holds a checkpoint made with other data or settings. Delete that folder to train anew, "
            "or restore the configuration that it was made with."
        )
    return state


def _resume(task: Task, state: dict[str, Any] | None) -> tuple[int, float | None, float]:
    if state is None:
        return 0, None, 0.0
    for name, module in task.modules.items():
        module.load_state_dict(state["modules"][name])
    for name, optimizer in task.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    return state["step"], state["best"], state["seconds"]


def _save(task: Task, folder: Path, step: int, fingerprint: str, best: float | None, seconds: float) -> None:
    save_checkpoint(
        folder / "checkpoints",
        step,
        {
            "fingerprint": fingerprint,
            "best": best,
            "seconds": seconds,
            "modules": {name: module.state_dict() for name, module in task.modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in task.optimizers.items()},
        },
    )


def _keep_best(task: Task, folder: Path, best: float | None) -> float | None:
    score = task.validate()
    if score is None or best is None or score < best:
        save(folder / "best.pt", task.export())
        return score
    return best
