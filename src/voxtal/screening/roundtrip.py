"""Encode and decode, without a network: what of a set of structures a representation keeps.

What is decoded is what a shard of the data set would hold, so that the figures are those of the stored precision.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.config import DensityConfig, VoxelsConfig
from voxtal.data.layouts import layout_of
from voxtal.data.schema import Settings
from voxtal.errors import UserError
from voxtal.parallel.communicator import Communicator, on_root
from voxtal.parallel.tasks import advancing, results, shown
from voxtal.representations.density import DensityGrid
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.placement import place
from voxtal.representations.reasons import Undecodable
from voxtal.representations.voxels import decode_structure, dense
from voxtal.structures.filters import Arrays
from voxtal.structures.matching import CDVAE, STRICT, Matcher
from voxtal.structures.structure_set import StructureSet
from voxtal.structures.superposition import displacements
from voxtal.structures.validity import reduced_cell, why_invalid

ROWS_AT_ONCE = 32
"""Rows that one rank takes at a time."""

MAX_FAILING_IDS = 20

Advance = Callable[..., None]
Progress = Callable[[str, int], AbstractContextManager[Advance]]


@dataclass(frozen=True)
class RoundTrip:
    """What became of one structure.

    Attributes
    ----------
    failure
        Why the strict matcher does not find the decoded structure equal to the original; empty if it does.
    cdvae
        Whether the looser matcher does.
    atoms
        Atoms of the original.
    site_rms
        Root mean square displacement of its sites, angstrom; NaN where it is not reproduced.
    cell_error
        Largest relative error of the edges of its reduced cell; NaN likewise.
    """

    failure: str
    cdvae: bool
    atoms: int
    site_rms: float
    cell_error: float


def round_trips(
    path: Path, settings: Settings, communicator: Communicator, progress: Progress | None = None
) -> dict[str, Any]:
    """Encode and decode every structure of a set, and compare. Collective: every rank calls it.

    Parameters
    ----------
    path
        File of the structure set.
    settings
        Of the sites and lattice voxels, or of the density maps.
    progress
        Shows on rank 0 how far it is.

    Returns
    -------
    dict
        :func:`summary` of all rows; the same on any number of ranks.

    Raises
    ------
    UserError
        The set cannot be read or is empty, or the settings allow no voxels.
    """

    def count() -> int:
        layout_of(settings).check(settings)
        if not (rows := len(StructureSet.read(path))):
            raise UserError(f"{path} holds no structures.")
        return rows

    rows = on_root(communicator, count)
    firsts = list(range(0, rows, ROWS_AT_ONCE))

    def work(task: int) -> list[RoundTrip]:
        return compare_block(StructureSet.read(path, firsts[task], min(firsts[task] + ROWS_AT_ONCE, rows)), settings)

    sizes = np.diff([*firsts, rows]).tolist()
    with shown(progress, "encode and decode", rows, communicator) as advance:
        done = advancing(advance, sizes)
        trips = [trip for block in results(communicator, len(firsts), work, done) for trip in block]
    return on_root(communicator, lambda: summary(trips, StructureSet.read(path).ids))


def summary(trips: Sequence[RoundTrip], ids: Sequence[str] | np.ndarray) -> dict[str, Any]:
    """Figures over all rows: the denominator of both ratios is ``n``, and ``n_strict`` and ``failures`` add up to it.

    ``site_rms_angstrom`` is the root mean square over all sites of all reproduced structures; of each structure's own,
    ``_median`` and ``_max`` are the median and the largest. ``cell_relative_error`` is the mean over the reproduced
    structures of the largest relative error of an edge, ``_max`` the largest of them. None where nothing is reproduced.
    """
    n = len(trips)
    reproduced = [trip for trip in trips if not trip.failure]
    n_cdvae = sum(trip.cdvae for trip in trips)
    rms = np.array([trip.site_rms for trip in reproduced])
    atoms = np.array([trip.atoms for trip in reproduced])
    cell = np.array([trip.cell_error for trip in reproduced])
    by_cause: dict[str, list[str]] = defaultdict(list)
    for trip, own_id in zip(trips, ids, strict=True):
        if trip.failure:
            by_cause[trip.failure].append(str(own_id))
    failing = dict(sorted(by_cause.items(), key=lambda item: (-len(item[1]), item[0])))
    some = bool(reproduced)
    return {
        "n": n,
        "n_strict": len(reproduced),
        "n_cdvae": n_cdvae,
        "reproduction_ratio_strict": len(reproduced) / n if n else None,
        "reproduction_ratio_cdvae": n_cdvae / n if n else None,
        "site_rms_angstrom": float(np.sqrt(np.average(rms**2, weights=atoms))) if some else None,
        "site_rms_angstrom_median": float(np.median(rms)) if some else None,
        "site_rms_angstrom_max": float(rms.max()) if some else None,
        "cell_relative_error": float(cell.mean()) if some else None,
        "cell_relative_error_max": float(cell.max()) if some else None,
        "failures": {cause: len(names) for cause, names in failing.items()},
        "failing_ids": {cause: names[:MAX_FAILING_IDS] for cause, names in failing.items()},
    }


def compare_block(block: StructureSet, settings: Settings) -> list[RoundTrip]:
    """Encode, decode and compare the structures of ``block``."""
    encoded = layout_of(settings).encode(block, settings)
    failures = {row: f"not encoded: {reason}" for row, reason in encoded.reasons.items()}
    if isinstance(settings, DensityConfig):
        placement, decoders = "paper", _density_decoders(encoded.arrays, settings)
    else:
        placement, decoders = settings.placement, _sites_decoders(encoded.arrays, settings)
    decoded: dict[int, Arrays] = {}
    for row, decode in zip(encoded.rows.tolist(), decoders, strict=True):
        try:
            decoded[row] = decode()
        except Undecodable as error:
            failures[row] = f"not decoded: {error}"
    return [
        compare(block.arrays(row), decoded[row], placement) if row in decoded else _failed(block, row, failures[row])
        for row in range(len(block))
    ]


def _failed(block: StructureSet, row: int, failure: str) -> RoundTrip:
    return RoundTrip(failure, False, int(block.offsets[row + 1] - block.offsets[row]), np.nan, np.nan)


def _sites_decoders(arrays: dict[str, np.ndarray], settings: VoxelsConfig) -> Iterator[Callable[[], Arrays]]:
    """For each structure of a shard of sites and lattice voxels, what decodes it."""
    images = np.searchsorted(arrays["image_structure"], np.arange(len(arrays["cells"]) + 1))

    def image(kind: str, number: int, size: int) -> np.ndarray:
        voxels = slice(*arrays[f"{kind}/offsets"][number : number + 2])
        return dense(arrays[f"{kind}/index"][voxels], arrays[f"{kind}/values"][voxels].astype(np.float32), size)

    for structure, (first, last) in enumerate(pairwise(images.tolist())):
        elements = {int(arrays["image_numbers"][i]): image("sites", i, settings.sites_grid) for i in range(first, last)}
        lattice = image("lattice", structure, settings.lattice_grid)
        yield partial(decode_structure, elements, lattice, settings)


def _density_decoders(arrays: dict[str, np.ndarray], settings: DensityConfig) -> Iterator[Callable[[], Arrays]]:
    """For each structure of a shard of density maps, what decodes it."""
    grid = DensityGrid.of(settings)

    def decode(structure: int) -> Arrays:
        voxels = slice(*arrays["species/offsets"][structure : structure + 2])
        species = np.zeros(grid.size**3, dtype=np.uint8)
        species[arrays["species/index"][voxels]] = arrays["species/numbers"][voxels]
        density = arrays["density"][structure].astype(np.float32) * arrays["density_unit"][structure]
        cell = arrays["cells"][structure].astype(np.float64)
        found = decode_density(density, species.reshape((grid.size,) * 3), cell, grid)
        return found.numbers, found.frac_coords, found.cell

    return (partial(decode, structure) for structure in range(len(arrays["cells"])))


def compare(original: Arrays, decoded: Arrays, placement: str) -> RoundTrip:
    """Directly where the two nearly coincide (:func:`voxtal.structures.superposition.displacements`), else by matchers.

    The original is turned, and its cell chosen, as it is before it is encoded: both are then in the same orientation.
    """
    atoms = len(original[0])
    if reason := why_invalid(*decoded):
        return RoundTrip(f"decoded: {reason}", False, atoms, np.nan, np.nan)
    positions, cell = place(original[1], original[2], 1.0, placement)
    moved = displacements(original[0], np.linalg.solve(cell.T, positions.T).T, cell, *decoded)
    if moved is not None:
        rms = float(np.sqrt(np.mean(np.sum(moved**2, axis=1))))
        return RoundTrip("", True, atoms, rms, _edge_error(cell, decoded[2]))
    return _match(original, decoded)


def _edge_error(cell: np.ndarray, decoded: np.ndarray) -> float:
    """Of the edges of the reduced cell, which both take by the same steps; the two are nearly equal."""
    steps = np.rint(np.linalg.solve(cell.T, reduced_cell(cell).T).T)
    return float(np.abs(np.linalg.norm(steps @ decoded, axis=1) / np.linalg.norm(steps @ cell, axis=1) - 1).max())


def _match(original: Arrays, decoded: Arrays) -> RoundTrip:
    from pymatgen.core import Lattice, Structure

    one, two = (Structure(Lattice(cell), numbers.tolist(), frac) for numbers, frac, cell in (original, decoded))
    strict = Matcher(STRICT)
    pair = strict.reduce(one), strict.reduce(two)
    cdvae = Matcher(CDVAE).matches(*pair)
    rms = strict.rms(*pair) if strict.matches(*pair) else None
    if rms is None:
        failure = "no match" if sorted(original[0]) == sorted(decoded[0]) else "other atoms"
        return RoundTrip(failure, cdvae, len(one), np.nan, np.nan)
    edges, found = (np.sort(structure.lattice.get_niggli_reduced_lattice().abc) for structure in (one, two))
    error = float(np.abs(found / edges - 1).max())
    return RoundTrip("", cdvae, len(one), rms * (one.volume / len(one)) ** (1 / 3), error)
