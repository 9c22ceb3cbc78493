"""Attempts of any generator: made in blocks, shared out to ranks, each block written whole, then joined."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.generation.decode import Decoded
from voxtal.generation.folder import CandidatesFolder
from voxtal.parallel.communicator import Communicator, on_root
from voxtal.parallel.tasks import advancing, gathered, shown
from voxtal.runs import RoundPaths, Run
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, SOURCE, StructureSet
from voxtal.training.device import one_thread

ATTEMPT = "attempt"
"""Property: number of the attempt; with the seed it makes the structure again."""
DRAWN = "drawn_system"
"""Provenance: chemical system that the generator drew, whatever was asked for."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Rows = Callable[[np.ndarray], StructureSet]
"""From numbers of attempts that follow each other, none but of one block, to their rows."""


def predicted_column(name: str) -> str:
    """Column of the candidates that holds the predictions of a property."""
    return f"predicted_{name}"


def condition_column(name: str) -> str:
    """Column of the candidates that holds what was asked of a property: its decile, 0 to 9, or its value."""
    return f"condition_{name}"


PREDICTED = predicted_column(FORMATION_ENERGY)
"""Property: formation energy as the round's network predicts it, eV/atom; NaN where it needs a valid structure."""


@dataclass(frozen=True)
class Maker:
    """What makes the attempts of one request.

    Attributes
    ----------
    asked
        The request, as plain values.
    made_by
        What attempts depend on besides their number and the request. Called on rank 0, before anything is made; it
        raises UserError where a model is missing or the request cannot be met.
    open
        Loads the networks on this rank.
    """

    asked: Mapping[str, Any]
    made_by: Callable[[], dict[str, Any]]
    open: Callable[[], Rows]


def make_attempts(
    folder: CandidatesFolder,
    maker: Maker,
    n: int,
    progress: Progress,
    communicator: Communicator,
    say: Callable[[str], None],
) -> Path:
    """Make ``n`` attempts and write ``candidates.h5``, whose path is returned. Collective.

    Attempt i depends on the seed and i alone, so that the file is the same on any number of ranks. A killed call keeps
    its finished blocks; a call for more attempts keeps those that are there.

    Raises
    ------
    UserError
        What ``made_by`` raises, or the folder holds attempts of another request.
    """

    def claim() -> list[range]:
        folder.claim(maker.asked, maker.made_by(), say)
        return folder.missing(n)

    todo = on_root(communicator, claim)
    opened = cache(maker.open)

    def make(task: int) -> None:
        opened()(np.arange(todo[task].start, todo[task].stop)).write(folder.block(todo[task]))

    sizes, began = list(map(len, todo)), time.monotonic()
    with shown(progress, "generate", sum(sizes), communicator) as advance, one_thread():
        gathered(communicator, len(todo), make, advancing(advance, sizes))

    def conclude() -> None:
        if todo:
            folder.note_time(sum(sizes), time.monotonic() - began, communicator.size)
        if todo or not folder.is_joined(n):
            folder.join(n)

    on_root(communicator, conclude)
    return folder.candidates


def rows_of(
    index: int,
    attempts: np.ndarray,
    model: str,
    decoded: Sequence[Decoded],
    drawn: np.ndarray,
    properties: Mapping[str, np.ndarray],
) -> StructureSet:
    """Numbered attempts (n,) of a round as rows: what they decode to, the chemical systems drawn (n,), more columns."""
    counts = [len(d.numbers) for d in decoded]
    return StructureSet(
        ids=np.asarray([f"r{index}-{i:06d}" for i in attempts], dtype=np.str_),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=np.concatenate([d.numbers for d in decoded]).astype(np.uint8),
        frac_coords=np.concatenate([d.frac_coords for d in decoded]),
        cells=np.stack([d.cell for d in decoded]),
        properties={ATTEMPT: attempts.astype(np.float64)}
        | {name: values.astype(np.float64) for name, values in properties.items()},
        provenance={
            REASON: np.asarray([d.reason for d in decoded], dtype=np.str_),
            DRAWN: drawn,
            SOURCE: np.asarray([model] * len(decoded), dtype=np.str_),
        },
    )


def seed_of(run: Run, paths: RoundPaths) -> int:
    """Of a round's attempts: another round's would be the same ones again."""
    return run.config.seed + paths.index
