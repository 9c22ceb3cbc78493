"""Voxelization of a structure set: shards shared out to the ranks as they become free, then the index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from voxtal.data.layouts import layout_of
from voxtal.data.schema import INDEX_NAME, UNREADABLE, Settings, encode_text, settings_json, shard_path
from voxtal.data.shards import (
    ABSENT,
    WHOLE,
    ShardSummary,
    shard_state,
    summarize_shard,
    write_arrays,
    write_shard,
)
from voxtal.errors import UserError
from voxtal.parallel.communicator import Communicator, on_root
from voxtal.parallel.tasks import advancing, gathered, shown
from voxtal.runs import exclusive
from voxtal.structures.structure_set import StructureSet

Advance = Callable[[int], None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]
"""What is done and how many, to a context that is told of each step (``voxtal.cli.common.progress``)."""


@dataclass(frozen=True)
class VoxelizeCounts:
    """What a call of :func:`voxelize` left and did."""

    rows: int
    structures: int
    images: int
    bad: dict[str, int]
    """Reason -> rows of the structure set that have no voxels."""
    bytes: int
    shards: int
    rows_made: int
    """Rows of the shards that this call made; the others were whole already."""
    seconds: float
    """Wall time of making them."""


@dataclass(frozen=True)
class _Job:
    """A structure set cut into blocks of rows, one shard each."""

    structures: Path
    folder: Path
    settings: Settings
    rows: int

    @property
    def shards(self) -> int:
        return -(-self.rows // self.settings.structures_per_shard)

    def first_row(self, shard: int) -> int:
        return min(shard * self.settings.structures_per_shard, self.rows)

    def rows_of(self, shards: Iterable[int]) -> int:
        return sum(self.first_row(shard + 1) - self.first_row(shard) for shard in shards)

    def path(self, shard: int) -> Path:
        return shard_path(self.folder, shard)

    def block(self, shard: int) -> StructureSet:
        return StructureSet.read(self.structures, self.first_row(shard), self.first_row(shard + 1))


def voxelize(
    structures: Path,
    folder: Path,
    settings: Settings,
    communicator: Communicator,
    progress: Progress | None = None,
    force: bool = False,
) -> VoxelizeCounts:
    """Write the voxels of a structure set to ``folder``. Collective: every rank calls it.

    Shards that are whole and of the same structures and settings are kept, so a killed run is carried on. A
    structure that cannot be encoded is recorded with its reason.

    Parameters
    ----------
    structures
        File of the structure set.
    progress
        Shows on rank 0 how far it is.
    force
        Replace shards that were made from other structures or with other settings.

    Raises
    ------
    UserError
        The set cannot be read, another run is at work in ``folder``, or ``folder`` holds other voxels. This,
        and whatever else fails on one rank, is raised on every rank.
    """
    with ExitStack() as stack:

        def open_folder() -> int:
            layout_of(settings).check(settings)
            rows = _count_rows(structures)
            stack.enter_context(exclusive(folder, "voxelize"))
            return rows

        job = _Job(structures, folder, settings, on_root(communicator, open_folder))
        checked = _checked(job, communicator)
        todo = on_root(communicator, lambda: _shards_to_make(job, checked or [], force))
        started = time.monotonic()
        made = _make_shards(job, todo, communicator, progress)
        seconds = time.monotonic() - started

        def publish() -> VoxelizeCounts:
            summaries = {k: shard.summary for k, shard in enumerate(checked or []) if shard.summary}
            summaries |= dict(zip(todo, made or [], strict=True))
            return _publish(job, [summaries[k] for k in range(job.shards)], job.rows_of(todo), seconds)

        return on_root(communicator, publish)


def _count_rows(structures: Path) -> int:
    StructureSet.read(structures, 0, 0)
    with h5py.File(structures, "r") as file:
        rows = len(file["cells"])
    if rows == 0:
        raise UserError(f"{structures} holds no structures.")
    return rows


@dataclass(frozen=True)
class _Checked:
    """A shard as it was found, with its summary if it is whole."""

    state: str
    summary: ShardSummary | None


def _checked(job: _Job, communicator: Communicator) -> list[_Checked] | None:
    """Every shard as it is, on rank 0. Collective."""
    empty, checksums = on_root(communicator, lambda: (not any(job.folder.glob("shard-*.h5")), _checksums(job.folder)))
    if empty:
        return [_Checked(ABSENT, None)] * job.shards

    def check(shard: int) -> _Checked:
        path = job.path(shard)
        state = shard_state(path, job.block(shard), job.settings, checksums.get(shard))
        return _Checked(state, summarize_shard(path, layout_of(job.settings)) if state == WHOLE else None)

    return gathered(communicator, job.shards, check)


def _shards_to_make(job: _Job, checked: list[_Checked], force: bool) -> list[int]:
    """Shards that are absent, damaged or, with ``force``, of something else; these are removed."""
    stale = {job.path(k): shard.state for k, shard in enumerate(checked) if shard.state not in (WHOLE, ABSENT)}
    surplus = set(job.folder.glob("shard-*.h5")) - {job.path(k) for k in range(job.shards)}
    stale |= dict.fromkeys(surplus, "there are fewer structures now")
    if stale and not force:
        path, difference = min(stale.items())
        raise UserError(
            f"{job.folder} holds voxels of something else ({path.name}: {difference}). "
            "Take another folder with -o, or replace them with --force."
        )
    _clear(job, stale)
    return [k for k, shard in enumerate(checked) if shard.state != WHOLE]


def _checksums(folder: Path) -> dict[int, str]:
    """Of the shards as published; none without an index, or with one that cannot be read."""
    try:
        return dict(enumerate(published_checksums(folder / INDEX_NAME)))
    except UNREADABLE:
        return {}


def _clear(job: _Job, stale: Iterable[Path]) -> None:
    """Remove stale shards, the index that speaks of them first, and what killed runs left half-written."""
    stale = list(stale)
    if stale:
        (job.folder / INDEX_NAME).unlink(missing_ok=True)
    for path in [*stale, *job.folder.glob(".*.tmp")]:
        path.unlink(missing_ok=True)


def _make_shards(
    job: _Job, todo: list[int], communicator: Communicator, progress: Progress | None
) -> list[ShardSummary] | None:
    """The summaries of the shards ``todo``, made, on rank 0. Collective."""

    def make(task: int) -> ShardSummary:
        shard = todo[task]
        write_shard(job.path(shard), job.block(shard), job.first_row(shard), job.settings)
        return summarize_shard(job.path(shard), layout_of(job.settings))

    with shown(progress, "voxelize", job.rows_of(todo), communicator) as advance:
        return gathered(communicator, len(todo), make, advancing(advance, (job.rows_of([shard]) for shard in todo)))


def _publish(job: _Job, summaries: list[ShardSummary], rows_made: int, seconds: float) -> VoxelizeCounts:
    """Write the index over all shards."""
    arrays = index_arrays(summaries)
    write_index(job.folder / INDEX_NAME, arrays, job.settings)
    return VoxelizeCounts(
        rows=job.rows,
        structures=len(arrays["rows"]),
        images=len(arrays["image_numbers"]) if "image_numbers" in arrays else len(arrays["rows"]),
        bad=dict(Counter(reason.decode() for reason in arrays["bad/reasons"])),
        bytes=int(arrays["shards/bytes"].sum()),
        shards=job.shards,
        rows_made=rows_made,
        seconds=seconds,
    )


def published_checksums(path: Path) -> list[str]:
    """Checksum of every shard's file, from the index at ``path``; raises one of :data:`UNREADABLE`."""
    with h5py.File(path, "r") as file:
        return [value.decode() for value in np.asarray(file["shards/sha256"])]


def write_index(path: Path, arrays: dict[str, np.ndarray], settings: Settings) -> None:
    """Write an index; the same arrays give the same bytes."""
    attributes = {"schema": layout_of(settings).index_schema, "settings": settings_json(settings)}
    write_arrays(path, arrays, attributes)


def index_arrays(shards: list[ShardSummary]) -> dict[str, np.ndarray]:
    """The datasets of the index."""
    joined = {name: np.concatenate([s.tables[name] for s in shards]) for name in shards[0].tables}
    structures = np.cumsum([0, *(len(s.tables["rows"]) for s in shards)])
    joined["shards/structures"] = structures
    if "image_structure" in joined:
        images = np.cumsum([0, *(len(s.tables["image_numbers"]) for s in shards)])
        joined["image_structure"] = joined["image_structure"] + np.repeat(structures[:-1], np.diff(images))
        joined["shards/images"] = images
    return joined | {
        "shards/bytes": np.array([s.bytes for s in shards]),
        "shards/sha256": encode_text([s.sha256 for s in shards]),
    }
