"""Voxelization of a structure set: shards shared out to the ranks as they become free, then the index."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import h5py
import numpy as np

from voxtal.data.layouts import layout_of
from voxtal.data.schema import INDEX_NAME, Settings, encode_text, settings_json, shard_path
from voxtal.data.shards import (
    ABSENT,
    WHOLE,
    ShardSummary,
    shard_state,
    summarize_shard,
    write_arrays,
    write_shard,
)
from voxtal.errors import Interrupted, UserError
from voxtal.parallel.communicator import Communicator, agree, on_root, report_crash
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
        todo = _shards_to_make(job, communicator, force)
        started = time.monotonic()
        _make_shards(job, todo, communicator, progress)
        seconds = time.monotonic() - started
        summaries = _summaries(job, communicator)
        return on_root(communicator, lambda: _publish(job, summaries, job.rows_of(todo), seconds))


def _count_rows(structures: Path) -> int:
    StructureSet.read(structures, 0, 0)
    with h5py.File(structures, "r") as file:
        rows = len(file["cells"])
    if rows == 0:
        raise UserError(f"{structures} holds no structures.")
    return rows


def _shards_to_make(job: _Job, communicator: Communicator, force: bool) -> list[int]:
    """Shards that are absent, damaged or, with ``force``, of something else; these are removed."""
    present, checksums = on_root(communicator, lambda: (sorted(job.folder.glob("shard-*.h5")), _checksums(job.folder)))
    if not present:
        on_root(communicator, lambda: _clear(job, []))
        return list(range(job.shards))
    found: dict[int, str] = {}
    each(communicator, job.shards, lambda k: found.update({k: _state(job, k, checksums.get(k))}))
    gathered = communicator.gather(found)

    def decide() -> list[int]:
        states = {k: state for part in gathered or [] for k, state in part.items()}
        stale = {job.path(k): state for k, state in states.items() if state not in (WHOLE, ABSENT)}
        surplus = set(present) - {job.path(k) for k in range(job.shards)}
        stale |= dict.fromkeys(surplus, "there are fewer structures now")
        if stale and not force:
            path, difference = min(stale.items())
            raise UserError(
                f"{job.folder} holds voxels of something else ({path.name}: {difference}). "
                "Take another folder with -o, or replace them with --force."
            )
        _clear(job, stale)
        return sorted(k for k, state in states.items() if state != WHOLE)

    return on_root(communicator, decide)


def _state(job: _Job, shard: int, published: str | None) -> str:
    return shard_state(job.path(shard), job.block(shard), job.settings, published)


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


def _make_shards(job: _Job, todo: list[int], communicator: Communicator, progress: Progress | None) -> None:
    total, shown = job.rows_of(todo), 0
    silent: AbstractContextManager[Advance] = nullcontext(lambda rows: None)
    with progress("voxelize", total) if progress and todo and communicator.rank == 0 else silent as advance:

        def make(task: int) -> None:
            nonlocal shown
            shard = todo[task]
            write_shard(job.path(shard), job.block(shard), job.first_row(shard), job.settings)
            # Tasks are handed out in order: what comes before this rank's own is done, or nearly.
            done = job.rows_of(todo[: task + 1])
            advance(done - shown)
            shown = done

        each(communicator, len(todo), make)
        advance(total - shown)


def each(communicator: Communicator, tasks: int, work: Callable[[int], None]) -> None:
    """Do every task on some rank. Collective. When one fails the others stop after theirs, and all raise its error."""
    error: Exception | Interrupted | None = None
    try:
        with closing(communicator.share(tasks)) as share:
            for task in share:
                work(task)
    except (Exception, Interrupted) as failure:
        if communicator.size > 1 and not isinstance(failure, (UserError, Interrupted)):
            report_crash(communicator)
        error = failure
    agree(communicator, error)


def _summaries(job: _Job, communicator: Communicator) -> list[ShardSummary]:
    """Of every shard, in order; on rank 0 only."""
    found: dict[int, ShardSummary] = {}
    layout = layout_of(job.settings)
    each(communicator, job.shards, lambda k: found.update({k: summarize_shard(job.path(k), layout)}))
    gathered = communicator.gather(found) or []
    return [summary for _, summary in sorted((item for part in gathered for item in part.items()), key=itemgetter(0))]


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


UNREADABLE = (OSError, KeyError, RuntimeError, ValueError)
"""What HDF5 raises for a file that is missing or damaged."""


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
