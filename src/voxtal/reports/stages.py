"""How far a run is: what each stage of each round has left on disk."""

from __future__ import annotations

import platform
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voxtal.errors import UserError
from voxtal.owners import process_runs
from voxtal.reports.run_data import (
    AUTOENCODERS,
    draws_maps,
    models_of_round,
    networks_of,
    read_candidates,
    read_metrics,
)
from voxtal.runs import RoundPaths, read_json

State = Literal["done", "running", "stopped", "waiting"]
FRESH_SECONDS = 120.0
"""A half-done stage whose files are younger than this is at work, wherever its process runs."""


@dataclass(frozen=True)
class Stage:
    """One stage of one round."""

    round: int
    name: str
    state: State
    detail: str
    seconds: float | None
    """Time spent in it, over all starts; None where the round has not noted any."""
    changed: float | None
    """Time of the last change, seconds since the epoch; None where there is nothing yet."""


@dataclass(frozen=True)
class Count:
    """Calculations of the ledger that have these four in common."""

    round: int
    purpose: str
    status: str
    reason: str
    n: int


def ledger_counts(path: Path) -> list[Count]:
    """Calculations by round, purpose, status and reason, read without touching the ledger.

    Raises
    ------
    UserError
        The file is no ledger, or cannot be read now.
    """
    if not path.is_file():
        return []
    columns = "round, purpose, status, reason"
    query = f"SELECT {columns}, COUNT(*) FROM calculations GROUP BY {columns} ORDER BY {columns}"
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            return [Count(*row) for row in connection.execute(query)]
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        raise UserError(f"{path} cannot be read now ({error}); try again in a moment.") from None
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is not a voxtal ledger ({error}); move it away and run again.") from None


def owner_at_work(root: Path) -> str | None:
    """The command on this host that holds ``root`` (see :func:`voxtal.runs.exclusive`), if it is alive."""
    lock = root / ".lock"
    text = lock.read_text().strip() if lock.is_file() else ""
    match = re.search(r"\(pid (\d+) on (.+)\)$", text)
    if match is None or match[2] != platform.node() or not process_runs(int(match[1])):
        return None
    return text


def round_stages(paths: RoundPaths, counts: Sequence[Count], at_work: bool) -> list[Stage]:
    """Every stage of one round, in the order in which they run; the first open one is what is ``at_work``."""
    traces = [
        _structures(paths, counts),
        *_models(paths),
        _Traces("generate", paths.candidates.is_file(), [paths.candidates]),
        _screen(paths),
        _relax(paths, counts),
        _Traces("hull", paths.hull.is_file(), [paths.hull]),
        _Traces("report", paths.summary.is_file(), [paths.summary]),
    ]
    clock = paths.root / "stages.json"
    seconds = read_json(clock) if clock.is_file() else {}
    first_open = next((trace.name for trace in traces if not trace.done), None)
    return [
        Stage(
            paths.index,
            trace.name,
            trace.state(at_work and trace.name == first_open),
            trace.detail,
            seconds.get("voxelize" if trace.name == "voxels" else trace.name),
            trace.changed,
        )
        for trace in traces
    ]


@dataclass(frozen=True)
class _Traces:
    """What a stage has left: whether it is whole, its files, and a word on them."""

    name: str
    done: bool
    files: Sequence[Path]
    detail: str = ""

    @property
    def changed(self) -> float | None:
        return max((path.stat().st_mtime for path in self.files if path.exists()), default=None)

    def state(self, at_work: bool) -> State:
        if self.done:
            return "done"
        if at_work or (self.changed is not None and time.time() - self.changed < FRESH_SECONDS):
            return "running"
        return "waiting" if self.changed is None else "stopped"


def _structures(paths: RoundPaths, counts: Sequence[Count]) -> _Traces:
    labelled = Counter[str]()
    for count in counts:
        if count.round == paths.index and count.purpose == "training":
            labelled[count.status] += count.n
    done = paths.structures.is_file()
    ledger = paths.root.parent / "ledger.sqlite"
    return _Traces("structures", done, [paths.structures] if done or not labelled else [ledger], _listed(labelled))


def _models(paths: RoundPaths) -> list[_Traces]:
    """From structures to trained networks."""
    if draws_maps(paths):
        return [_voxels(paths.density), *(_training(model, paths.train(model)) for model in models_of_round(paths))]
    return [
        _voxels(paths.voxels),
        *(_training(model, paths.train(model)) for model in AUTOENCODERS),
        *_separated(paths),
        _Traces("encode", paths.graphs.is_file(), [paths.graphs]),
        *(_training(model, paths.train(model)) for model in networks_of(paths)),
    ]


def _voxels(folder: Path) -> _Traces:
    shards = sorted(folder.glob("shard-*.h5"))
    index = folder / "index.h5"
    return _Traces("voxels", index.is_file(), [index, *shards], f"shards {len(shards)}" if shards else "")


def _training(model: str, folder: Path) -> _Traces:
    metrics = read_metrics(folder / "metrics.jsonl")
    files = [folder / "metrics.jsonl", folder / "best.pt", *(folder / "checkpoints").glob("*")]
    if not metrics:
        return _Traces(f"train {model}", False, files)
    last = metrics[-1]
    losses = [f"{key} {last[key]:.3g}" for key in last if key.endswith("loss") and last[key] is not None]
    return _Traces(
        f"train {model}",
        done=last["step"] >= last["steps"] and (folder / "best.pt").is_file(),
        files=files,
        detail=", ".join([f"step {last['step']}/{last['steps']}", *losses]),
    )


def _separated(paths: RoundPaths) -> list[_Traces]:
    """The sites autoencoders of single elements as one stage, once there are any."""
    logs = sorted(paths.train("").glob("sites-ae-*/metrics.jsonl"))
    parts = [_training(log.parent.name, log.parent) for log in logs]
    done = sum(part.done for part in parts)
    files = [file for part in parts for file in part.files]
    detail = f"elements done {done}, begun {len(parts) - done}"
    return [_Traces("train sites-ae-separated", done == len(parts), files, detail)] if parts else []


def _screen(paths: RoundPaths) -> _Traces:
    files = [paths.screen / "candidates.csv", paths.evaluation]
    outcomes = Counter(row["outcome"] for row in read_candidates(files[0]))
    return _Traces("screen", all(path.is_file() for path in files), files, _listed(outcomes))


def _relax(paths: RoundPaths, counts: Sequence[Count]) -> _Traces:
    selected = sum(row["outcome"] == "selected" for row in read_candidates(paths.screen / "candidates.csv"))
    results = sorted(paths.relax.glob("*/result.json"))
    statuses = Counter[str]()
    for count in counts:
        if count.round == paths.index and count.purpose == "candidate":
            statuses[count.status] += count.n
    detail = ", ".join(filter(None, [f"{len(results)}/{selected}" if selected else "", _listed(statuses)]))
    relaxed = paths.relax / "relaxed.h5"
    return _Traces("relax", relaxed.is_file(), [relaxed, *paths.relax.glob("*"), *results], detail)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
