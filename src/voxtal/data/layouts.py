"""The two representations on disk: what a shard of each holds, and how it is made from a block of structures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from voxtal.config import DensityConfig, VoxelsConfig
from voxtal.data.schema import LEVEL_TYPE, MAX_LEVEL, VALUE_TYPE, Settings, index_type
from voxtal.representations.density import DensityGrid, encode_density
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.placement import place_all
from voxtal.representations.ragged import offsets_of
from voxtal.representations.reasons import Unencodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.voxels import BlockVoxels, encode_block
from voxtal.structures.structure_set import StructureSet
from voxtal.structures.validity import TOO_CLOSE
from voxtal.units import MIN_DISTANCE_ANGSTROM


@dataclass(frozen=True)
class Encoded:
    """What became of the structures of a block: rows with voxels, reasons of the others, datasets of the shard."""

    rows: np.ndarray
    reasons: dict[int, str]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class Layout:
    """How one representation lies on disk; see :mod:`voxtal.data.schema`.

    Attributes
    ----------
    shard_schema, index_schema
        Names of the formats, raised when they change.
    tables
        Datasets that the index joins, besides those of every layout.
    check
        Raises UserError for settings that no structure could be encoded with.
    encode
        A block of structures to the datasets of its shard.
    """

    shard_schema: str
    index_schema: str
    tables: tuple[str, ...]
    check: Callable[[Any], object]
    encode: Callable[[StructureSet, Any], Encoded]


def layout_of(settings: Settings) -> Layout:
    return DENSITY if isinstance(settings, DensityConfig) else SITES


STRUCTURES_AT_ONCE = 192
"""Structures whose voxels are held as they are computed, in eight bytes where two are stored."""


def _encode_sites(block: StructureSet, settings: VoxelsConfig) -> Encoded:
    rows = [np.empty(0, np.int64)]
    reasons: dict[int, str] = {}
    parts: list[dict[str, np.ndarray]] = []
    structures = 0
    for first in range(0, len(block), STRUCTURES_AT_ONCE):
        offsets = block.offsets[first : first + STRUCTURES_AT_ONCE + 1]
        atoms, cells = slice(offsets[0], offsets[-1]), block.cells[first : first + STRUCTURES_AT_ONCE]
        voxels = encode_block(offsets - offsets[0], block.numbers[atoms], block.frac_coords[atoms], cells, settings)
        rows.append(voxels.rows + first)
        reasons |= {row + first: reason for row, reason in voxels.reasons.items()}
        parts.append(_as_stored(voxels, structures, settings))
        structures += len(voxels.rows)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in ("sites/offsets", "lattice/offsets", "atoms/offsets"):
        arrays[name] = offsets_of(arrays[name])
    return Encoded(np.concatenate(rows), reasons, arrays)


def _as_stored(voxels: BlockVoxels, first_structure: int, settings: VoxelsConfig) -> dict[str, np.ndarray]:
    """Datasets of a part of a shard; its offsets are still counts."""
    return {
        "cells": voxels.cells.astype(np.float32),
        "image_structure": voxels.image_structure + first_structure,
        "image_numbers": voxels.image_numbers,
        "sites/offsets": np.diff(voxels.sites_offsets),
        "sites/index": voxels.sites_index.astype(index_type(settings.sites_grid)),
        "sites/values": voxels.sites_values.astype(VALUE_TYPE),
        "lattice/offsets": np.diff(voxels.lattice_offsets),
        "lattice/index": voxels.lattice_index.astype(index_type(settings.lattice_grid)),
        "lattice/values": voxels.lattice_values.astype(VALUE_TYPE),
        "atoms/offsets": np.diff(voxels.atom_offsets),
        "atoms/positions": voxels.positions.astype(np.float32),
    }


SITES = Layout(
    shard_schema="voxtal-voxel-shard-2",
    index_schema="voxtal-voxels-2",
    tables=("image_structure", "image_numbers"),
    check=lambda settings: (SitesGrid.of(settings), LatticeGrid.of(settings)),
    encode=_encode_sites,
)


def _encode_density(block: StructureSet, settings: DensityConfig) -> Encoded:
    grid = DensityGrid.of(settings)
    placed = place_all(block.offsets, block.frac_coords, block.cells, 1.0, "paper")
    placed.reasons[placed.shortest < MIN_DISTANCE_ANGSTROM] = TOO_CLOSE
    reasons = {row: str(reason) for row, reason in enumerate(placed.reasons) if reason}
    parts: dict[int, _DensityPart] = {}
    for row in range(len(block)):
        if row not in reasons:
            try:
                parts[row] = _density_part(*block.arrays(row), grid)
            except Unencodable as error:
                reasons[row] = str(error)
    found, n = list(parts.values()), grid.size
    counts = np.array([[len(part.index), len(part.numbers)] for part in found], dtype=np.int64).reshape(-1, 2)
    arrays = {
        "cells": _joined([part.cell[None] for part in found], (0, 3, 3), np.float32),
        "density": _joined([part.levels[None] for part in found], (0, n, n, n), LEVEL_TYPE),
        "density_unit": np.array([part.unit for part in found], dtype=np.float32),
        "species/offsets": offsets_of(counts[:, 0]),
        "species/index": _joined([part.index for part in found], (0,), index_type(n)),
        "species/numbers": _joined([part.species for part in found], (0,), np.uint8),
        "atoms/offsets": offsets_of(counts[:, 1]),
        "atoms/numbers": _joined([part.numbers for part in found], (0,), np.uint8),
        "atoms/frac_coords": _joined([part.frac_coords for part in found], (0, 3), np.float32),
    }
    return Encoded(np.array(list(parts), dtype=np.int64), reasons, arrays)


@dataclass(frozen=True)
class _DensityPart:
    """One structure's part of a shard, in the types that are stored."""

    cell: np.ndarray
    levels: np.ndarray
    unit: np.float32
    index: np.ndarray
    species: np.ndarray
    numbers: np.ndarray
    frac_coords: np.ndarray


def _density_part(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, grid: DensityGrid) -> _DensityPart:
    maps = encode_density(numbers, frac_coords, cell, grid)
    levels, unit = quantized(maps.density)
    species = maps.species.ravel()
    index = np.flatnonzero(species != 0)
    small = index.astype(index_type(grid.size))
    return _DensityPart(maps.cell, levels, unit, small, species[index], numbers, maps.sites)


def quantized(density: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """A map as 65,536 levels, from 0 to its maximum, and the size of one level: what is stored of it."""
    unit = np.float32(density.max() / MAX_LEVEL)
    return (density / unit + np.float32(0.5)).astype(LEVEL_TYPE), unit


def _joined(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    return np.concatenate([np.empty(shape, dtype), *arrays], dtype=dtype, casting="unsafe")


DENSITY = Layout(
    shard_schema="voxtal-density-shard-1",
    index_schema="voxtal-density-1",
    tables=(),
    check=DensityGrid.of,
    encode=_encode_density,
)
