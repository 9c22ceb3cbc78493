"""Nearest neighbours of every atom of many crystals: the edges of their atom graphs (ICSG3D's CGCNN).

Not to be confused with a crystal graph, which is CCDCGAN's latent image of a structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voxtal.representations.ragged import counted, offsets_of
from voxtal.structures.structure_set import StructureSet

NEAREST = 12
"""Neighbours of an atom: T. Xie and J. C. Grossman, Phys. Rev. Lett. 120, 145301 (2018)."""
LIMIT = 8.0
"""Angstrom, beyond which no atom is a neighbour; as there."""
_SAME = 1e-4
"""Angstrom: an atom and itself."""
_FIRST_TRY = 30
"""Atoms that the sphere searched first has room for. Where it holds too few neighbours, the whole limit is searched."""
_BLOCK = 512
"""Structures that are sorted together."""


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of every atom of n structures, as ragged arrays.

    Attributes
    ----------
    offsets
        (n + 1,) int64: structure i has the atoms ``offsets[i]:offsets[i + 1]``.
    starts
        (atoms + 1,) int64: atom a has the neighbours ``starts[a]:starts[a + 1]``.
    atoms
        (m,) int32: which atom of its structure a neighbour is, or is an image of.
    distances
        (m,) float32: angstrom, rising within an atom's.
    weights
        (m,) float32: how much a neighbour counts, 1 but for those a little farther than the ``nearest``.
    """

    offsets: np.ndarray
    starts: np.ndarray
    atoms: np.ndarray
    distances: np.ndarray
    weights: np.ndarray


def neighbours(
    structures: StructureSet,
    nearest: int = NEAREST,
    beyond: float = 1.0,
    limit: float = LIMIT,
) -> Neighbours:
    """The ``nearest`` neighbours of every atom, periodic images included, within ``limit`` (angstrom).

    Where the last one is as far as others that are left out, which ones are taken depends on how the crystal is written
    down; so it is for 45% of the atoms of real crystals with 12 neighbours. With ``beyond`` above 1, those up to
    ``beyond`` times as far as the last one count too, with a weight that falls smoothly to 0: what is computed from
    them is then the same for every cell and order of atoms, and changes smoothly as atoms move.

    Parameters
    ----------
    structures
        Valid ones: cells with a volume, no two atoms in one place.
    nearest
        An atom with fewer within ``limit`` has those that there are.
    beyond
        1: exactly the ``nearest``, as published; of equally far ones the lighter, then the first listed.
    """
    blocks = []
    for first in range(0, len(structures), _BLOCK):
        rows = range(first, min(first + _BLOCK, len(structures)))
        blocks.append(_of_block(structures, rows, nearest, beyond, limit))
    counts, atoms, distances, weights = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return Neighbours(structures.offsets, offsets_of(counts), atoms, distances, weights)


_Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _of_block(structures: StructureSet, rows: range, nearest: int, beyond: float, limit: float) -> _Parts:
    """Number of neighbours of each atom of ``rows``, and :class:`Neighbours`' atoms, distances and weights."""
    offsets = structures.offsets[rows.start : rows.stop + 1] - structures.offsets[rows.start]
    volumes = np.abs(np.linalg.det(structures.cells[rows.start : rows.stop]))
    reach = np.minimum(limit, (volumes / np.diff(offsets) * _FIRST_TRY * 3 / (4 * np.pi)) ** (1 / 3))
    pairs = [_pairs(structures, row, reach[i]) for i, row in enumerate(rows)]
    for i in _short(pairs, offsets, nearest, reach / beyond):
        if reach[i] < limit:
            pairs[i] = _pairs(structures, rows[i], limit)
    centres = np.concatenate([pair[0] + offset for pair, offset in zip(pairs, offsets[:-1], strict=True)])
    others = np.concatenate([pair[1] for pair in pairs])
    distances = np.concatenate([pair[2] for pair in pairs])
    numbers = structures.numbers[structures.offsets[rows.start] :][
        others + np.repeat(offsets[:-1], [len(pair[0]) for pair in pairs])
    ]
    order = np.lexsort((distances, others, numbers, np.round(distances, 3), centres))
    centres, others, distances = centres[order], others[order], distances[order]
    return _nearest(centres, others, distances, int(offsets[-1]), nearest, beyond)


def _nearest(
    centres: np.ndarray, others: np.ndarray, distances: np.ndarray, n_atoms: int, nearest: int, beyond: float
) -> _Parts:
    """Of pairs sorted by centre and distance, those that are neighbours."""
    counts = np.bincount(centres, minlength=n_atoms)
    rank = counted(counts)
    farthest = np.full(n_atoms, np.inf)
    last = rank == nearest - 1
    farthest[centres[last]] = distances[last]
    excess = distances / farthest[centres] - 1
    kept = rank < nearest
    weights = np.ones(len(rank))
    if beyond > 1:
        kept |= excess < beyond - 1
        weights = 0.5 + 0.5 * np.cos(np.pi * np.clip(excess / (beyond - 1), 0, 1))
    counts = np.bincount(centres[kept], minlength=n_atoms)
    return counts, others[kept].astype(np.int32), distances[kept].astype(np.float32), weights[kept].astype(np.float32)


def _short(pairs: Sequence[tuple[np.ndarray, ...]], offsets: np.ndarray, nearest: int, reach: np.ndarray) -> np.ndarray:
    """Structures with an atom that has fewer than ``nearest`` within the ``reach`` (n,) of its structure."""
    near = [centre[distance <= within] for (centre, _, distance), within in zip(pairs, reach, strict=True)]
    centres = np.concatenate([centre + offset for centre, offset in zip(near, offsets[:-1], strict=True)])
    few = np.bincount(centres, minlength=int(offsets[-1])) < nearest
    return np.flatnonzero(np.add.reduceat(few, offsets[:-1]))


def _pairs(structures: StructureSet, row: int, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms, others or images of them up to ``reach`` from each, and their distances, in no order."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    _, frac_coords, cell = structures.arrays(row)
    positions = np.ascontiguousarray(frac_coords @ cell)
    centres, others, _, distances = find_points_in_spheres(
        positions, positions, r=float(reach), pbc=_PERIODIC, lattice=np.ascontiguousarray(cell), tol=_TOLERANCE
    )
    another = distances > _SAME
    return centres[another], others[another], distances[another]


_PERIODIC = np.ones(3, dtype=np.int64)
_TOLERANCE = 1e-8
