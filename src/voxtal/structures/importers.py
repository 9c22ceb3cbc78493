"""Files of many formats to one :class:`StructureSet`, with every dropped row accounted for."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np

from voxtal.errors import Interrupted, UserError
from voxtal.runs import atomic_path
from voxtal.structures.columns import numbers_of, parse_column_options
from voxtal.structures.filters import (
    Arrays,
    Selection,
    conventional_cell,
    primitive_cell,
    surely_primitive,
    why_dropped,
    wrap,
)
from voxtal.structures.formats import PARSERS
from voxtal.structures.formula_classes import why_of_no_class
from voxtal.structures.rows import BadRowError, Dropped, Kept, RawRow
from voxtal.structures.sources import open_source, rows_of
from voxtal.structures.structure_set import SOURCE, StructureSet
from voxtal.structures.validity import why_invalid

_CHUNK = 256
_SERIAL_CHUNKS = 4
"""Up to this many chunks are done here; starting processes would take longer."""


@dataclass(frozen=True)
class ImportResult:
    """What came in; ``read == len(structures) + len(dropped)``."""

    structures: StructureSet
    dropped: list[Dropped]
    read: int

    def reasons(self) -> dict[str, int]:
        """Rows dropped by reason, most frequent first."""
        return dict(Counter(row.reason for row in self.dropped).most_common())


def import_structures(
    paths: Sequence[Path],
    columns: Iterable[str] = (),
    selection: Selection = Selection(),
    workers: int | None = None,
    progress: Callable[[int], None] = lambda read: None,
) -> ImportResult:
    """Read every structure of ``paths`` and keep what ``selection`` keeps, the first of each id.

    Parameters
    ----------
    paths
        CSV (with a CIF column), CIF, POSCAR, extxyz, JSON (each also ``.gz``), ``.h5`` structure sets or
        folders of such files.
    columns
        ``NAME=COLUMN`` for tables whose columns are not known by name.
    workers
        Processes; one per core if not given. The result does not depend on it.
    progress
        Called with the number of rows done so far.

    Raises
    ------
    UserError
        A path that is missing, empty or unreadable, or a column that is not there. Bad rows are recorded.
    """
    explicit = parse_column_options(columns)
    sources = [open_source(path, explicit) for path in paths]
    kept: dict[str, Kept] = {}
    dropped: list[Dropped] = []
    read = 0
    for outcomes in _processed(chain.from_iterable(sources), selection, workers or os.cpu_count() or 1):
        for row in outcomes:
            if isinstance(row, Dropped):
                dropped.append(row)
            elif row.id in kept:
                dropped.append(Dropped(row.source, row.id, "duplicate id", f"kept {kept[row.id].source}"))
            else:
                kept[row.id] = row
        read += len(outcomes)
        progress(read)
    return ImportResult(_pack(list(kept.values())), dropped, read)


def process_row(row: RawRow | Dropped, selection: Selection) -> Kept | Dropped:
    """Parse, check, reduce and filter one row. Never raises for a bad one."""
    if isinstance(row, Dropped):
        return row
    try:
        properties, text_columns = numbers_of(row.properties)
        numbers, frac_coords, cell = PARSERS[row.format](row.payload)
        if (reason := why_invalid(numbers, frac_coords, cell)) is not None:
            raise BadRowError(reason)
        verdict = why_of_no_class(numbers, frac_coords, cell, selection.classes, selection.only_cubic)
        if verdict is None:
            numbers, frac_coords, cell = _wanted_cell((numbers, frac_coords, cell), selection)
            verdict = why_dropped(numbers, cell, selection)
        if verdict is not None:
            raise BadRowError(*verdict)
    except BadRowError as error:
        return Dropped(row.source, row.id, error.reason, error.detail)
    except Interrupted:
        raise
    except Exception as error:  # a row that breaks a library must not cost the others
        return Dropped(row.source, row.id, "could not be read", f"{type(error).__name__}: {error}")
    arrays = (numbers, wrap(frac_coords), cell)
    return Kept(row.source, row.id, arrays, properties, text_columns, row.provenance)


def _wanted_cell(arrays: Arrays, selection: Selection) -> Arrays:
    """The cell that ``selection`` asks for.

    One that is too large and cannot shrink stays as it is, to be dropped: reduction is nearly all of an import's time.
    """
    if selection.cell == "conventional":
        return conventional_cell(*arrays)
    too_large = selection.max_atoms is not None and len(arrays[0]) > selection.max_atoms
    if selection.cell == "given" or (too_large and surely_primitive(*arrays)):
        return arrays
    return primitive_cell(*arrays)


def select(structures: StructureSet, selection: Selection) -> ImportResult:
    """What ``selection`` keeps of a set that no file holds."""
    outcomes = [process_row(row, selection) for row in rows_of(structures, "structures")]
    kept = [row for row in outcomes if isinstance(row, Kept)]
    return ImportResult(_pack(kept), [row for row in outcomes if isinstance(row, Dropped)], len(structures))


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    """Write the dropped rows as CSV: source, id, reason, detail."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("source", "id", "reason", "detail"))
        writer.writerows((row.source, row.id, row.reason, row.detail) for row in dropped)


def _process_chunk(rows: list[RawRow | Dropped], selection: Selection) -> list[Kept | Dropped]:
    return [process_row(row, selection) for row in rows]


def _processed(rows: Iterator[RawRow | Dropped], selection: Selection, workers: int) -> Iterator[list[Kept | Dropped]]:
    """Chunks of outcomes in the order of the rows."""
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    head = list(islice(chunks, _SERIAL_CHUNKS))
    if workers == 1 or len(head) < _SERIAL_CHUNKS:
        yield from (_process_chunk(chunk, selection) for chunk in chain(head, chunks))
        return
    # Spawned, not forked: a progress bar's thread may hold a lock at the moment of the fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_signals_to_the_parent) as pool:
        waiting: deque[Future[list[Kept | Dropped]]] = deque()
        try:
            for chunk in chain(head, chunks):
                waiting.append(pool.submit(_process_chunk, chunk, selection))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_signals_to_the_parent() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _pack(kept: Sequence[Kept]) -> StructureSet:
    names = dict.fromkeys(name for row in kept for name in row.properties)
    text_columns = frozenset().union(*(row.text_columns for row in kept))
    provenance = dict.fromkeys(name for row in kept for name in row.provenance)
    empty = StructureSet.from_structures([], [])
    if not kept:
        return empty
    counts = [len(row.arrays[0]) for row in kept]
    return StructureSet(
        ids=np.asarray([row.id for row in kept], dtype=np.str_),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=np.concatenate([row.arrays[0] for row in kept]).astype(np.uint8),
        frac_coords=np.concatenate([row.arrays[1] for row in kept]),
        cells=np.stack([row.arrays[2] for row in kept]),
    ).with_columns(
        properties={
            name: np.array([row.properties.get(name, np.nan) for row in kept])
            for name in names
            if name not in text_columns
        },
        provenance={name: [row.provenance.get(name, "") for row in kept] for name in provenance}
        | {SOURCE: [row.source for row in kept]},
    )


def require_kept(result: ImportResult, dropped_path: Path) -> None:
    """Refuse to go on with nothing.

    Raises
    ------
    UserError
        Every row was dropped.
    """
    if len(result.structures) == 0:
        raise UserError(f"None of the {result.read} rows was kept; {dropped_path} says why, row by row.")
