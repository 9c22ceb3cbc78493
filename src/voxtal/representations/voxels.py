"""A whole structure as voxels, and back: one sites image per element and one lattice image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.representations.assembly import assemble
from voxtal.representations.ionic_radii import MAX_NUMBER
from voxtal.representations.lattice import LatticeGrid, encode_lattices, why_unencodable
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.placement import outside_box, place_all
from voxtal.representations.ragged import entries_of, offsets_of
from voxtal.representations.reasons import Unencodable
from voxtal.representations.sites import SitesGrid, encode_sites
from voxtal.representations.sites_decoding import decode_sites
from voxtal.structures.validity import TOO_CLOSE
from voxtal.units import MIN_DISTANCE_ANGSTROM


@dataclass(frozen=True)
class StructureVoxels:
    """Non-zero voxels of one structure.

    Attributes
    ----------
    elements
        (k,) uint8 atomic numbers, rising: the element of each sites image.
    sites_offsets
        (k + 1,) int64: sites image j has the voxels ``sites_offsets[j]:sites_offsets[j + 1]``.
    sites_index, sites_values
        Flat index in the (G, G, G) image, and value (float32), of each non-zero sites voxel.
    lattice_index, lattice_values
        The same for the (N, N, N) lattice image.
    """

    elements: np.ndarray
    sites_offsets: np.ndarray
    sites_index: np.ndarray
    sites_values: np.ndarray
    lattice_index: np.ndarray
    lattice_values: np.ndarray


@dataclass(frozen=True)
class BlockVoxels:
    """Non-zero voxels of the s structures of a block that have any, in m sites images altogether.

    Attributes
    ----------
    rows
        (s,) int64: their rows in the block, rising.
    reasons
        Row -> why it has no voxels, for the other structures.
    image_structure, image_numbers
        (m,) int64, uint8: structure (0 to s - 1) and atomic number of each sites image, both rising.
    sites_offsets, sites_index, sites_values
        As in :class:`StructureVoxels`, for all images.
    lattice_offsets, lattice_index, lattice_values
        The same for the lattice images; structure i has the voxels ``lattice_offsets[i]:lattice_offsets[i + 1]``.
    atom_offsets, positions
        (m + 1,) int64, (atoms, 3): sites image j shows the atoms ``positions[atom_offsets[j]:atom_offsets[j + 1]]``,
        angstrom, in the box.
    cells
        (s, 3, 3): what the lattice images show; rows, angstrom.
    """

    rows: np.ndarray
    reasons: dict[int, str]
    image_structure: np.ndarray
    image_numbers: np.ndarray
    sites_offsets: np.ndarray
    sites_index: np.ndarray
    sites_values: np.ndarray
    lattice_offsets: np.ndarray
    lattice_index: np.ndarray
    lattice_values: np.ndarray
    atom_offsets: np.ndarray
    positions: np.ndarray
    cells: np.ndarray


def encode_structure(
    numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, settings: VoxelsConfig
) -> StructureVoxels:
    """:func:`encode_block` for one structure: atomic numbers (n,), fractional coordinates (n, 3), cell (3, 3).

    Raises
    ------
    Unencodable
        It is no crystal, or does not fit the box (``compact`` placement only) or the lattice voxel.
    """
    offsets = np.array([0, len(numbers)])
    block = encode_block(offsets, np.asarray(numbers), np.asarray(frac_coords), np.asarray(cell)[None], settings)
    if block.reasons:
        raise Unencodable(block.reasons[0])
    return StructureVoxels(
        block.image_numbers,
        block.sites_offsets,
        block.sites_index,
        block.sites_values,
        block.lattice_index,
        block.lattice_values,
    )


def encode_block(
    offsets: np.ndarray, numbers: np.ndarray, frac_coords: np.ndarray, cells: np.ndarray, settings: VoxelsConfig
) -> BlockVoxels:
    """Voxels of many structures (CCDCGAN, section Representation, doi:10.1016/j.actamat.2022.117898).

    Parameters
    ----------
    offsets
        (n + 1,) structure i has the atoms ``offsets[i]:offsets[i + 1]``.
    numbers
        (atoms,) atomic numbers.
    frac_coords
        (atoms, 3) fractional coordinates.
    cells
        (n, 3, 3) lattice vectors as rows, angstrom.
    """
    grid, lattice_grid = SitesGrid.of(settings), LatticeGrid.of(settings)
    placed = place_all(offsets, frac_coords, cells, grid.box, settings.placement)
    reasons = placed.reasons.copy()
    reasons[placed.shortest < MIN_DISTANCE_ANGSTROM] = TOO_CLOSE
    owners = np.repeat(np.arange(len(cells)), np.diff(offsets))
    _give_reason(reasons, owners[(numbers < 1) | (numbers > MAX_NUMBER)], "unknown element")
    if settings.placement == "compact":
        # Atoms at opposite faces must not meet through them.
        margin = max(grid.spacing, MIN_DISTANCE_ANGSTROM) / 2
        outside = outside_box(placed.positions, grid.box, margin)
        _give_reason(reasons, owners[outside], OUTSIDE_BOX)
    crystals = np.flatnonzero(reasons == "")
    reasons[crystals] = why_unencodable(placed.cells[crystals], lattice_grid)
    rows = np.flatnonzero(reasons == "")
    atoms = entries_of(offsets, rows)
    structure = np.repeat(np.arange(len(rows)), np.diff(offsets)[rows])
    key = structure * 256 + numbers[atoms]
    order = np.argsort(key, kind="stable")
    images, image, counts = np.unique(key[order], return_inverse=True, return_counts=True)
    positions, placed_cells = placed.positions[atoms[order]], placed.cells[rows]
    sites = encode_sites(positions, image, grid)
    lattice = encode_lattices(placed_cells, lattice_grid)
    return BlockVoxels(
        rows,
        {int(row): str(reasons[row]) for row in np.flatnonzero(reasons != "")},
        images // 256,
        (images % 256).astype(np.uint8),
        *_by_image(*sites, len(images), grid.size**3),
        *_by_image(*lattice, len(rows), lattice_grid.size**3),
        offsets_of(counts),
        positions,
        placed_cells,
    )


OUTSIDE_BOX = "does not fit the box of the sites voxels"


def _give_reason(reasons: np.ndarray, rows: np.ndarray, reason: str) -> None:
    """To those of ``rows`` that have none yet."""
    reasons[rows[reasons[rows] == ""]] = reason


def _by_image(
    index: np.ndarray, values: np.ndarray, images: int, voxels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets (images + 1,), indices within each image, and values."""
    offsets = np.searchsorted(index, voxels * np.arange(images + 1))
    return offsets, index - np.repeat(voxels * np.arange(images), np.diff(offsets)), values


def decode_structure(
    sites_images: Mapping[int, np.ndarray], lattice_image: np.ndarray, settings: VoxelsConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers (n,), fractional coordinates (n, 3) and cell (3, 3; angstrom) from dense images.

    Parameters
    ----------
    sites_images
        Atomic number -> (G, G, G).
    lattice_image
        (N, N, N).

    Raises
    ------
    Undecodable
        The lattice image holds no cell.
    """
    cell = decode_lattice(lattice_image, LatticeGrid.of(settings))
    grid = SitesGrid.of(settings)
    return assemble(cell, {z: decode_sites(image, grid)[0] for z, image in sites_images.items()})


def dense(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """(size, size, size) float32 image from its non-zero voxels."""
    image = np.zeros(size**3, dtype=np.float32)
    image[index] = values
    return image.reshape(size, size, size)
