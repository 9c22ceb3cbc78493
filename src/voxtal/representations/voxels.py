"""A whole structure as voxels, and back: one sites image per element and one lattice image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from voxtal.config import VoxelsConfig
from voxtal.representations.assembly import assemble
from voxtal.representations.lattice import LatticeGrid, encode_lattice
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.placement import outside_box, place
from voxtal.representations.reasons import Unencodable
from voxtal.representations.sites import SitesGrid, encode_sites
from voxtal.representations.sites_decoding import decode_sites


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


def encode_structure(
    numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, settings: VoxelsConfig
) -> StructureVoxels:
    """Voxels of a structure (CCDCGAN, section Representation).

    Raises
    ------
    Unencodable
        It does not fit the box (``compact`` placement only) or the lattice voxel, or its cell is singular.
    """
    grid, lattice_grid = SitesGrid.of(settings), LatticeGrid.of(settings)
    positions, cell = place(frac_coords, cell, grid.box, settings.placement)
    if settings.placement == "compact" and outside_box(positions, grid.box, margin=grid.spacing / 2):
        raise Unencodable("does not fit the box of the sites voxels")
    elements, channels = np.unique(numbers, return_inverse=True)
    index, values = encode_sites(positions, channels, grid)
    voxels = grid.size**3
    lattice_index, lattice_values = encode_lattice(cell, lattice_grid)
    return StructureVoxels(
        elements=elements.astype(np.uint8),
        sites_offsets=np.searchsorted(index, voxels * np.arange(len(elements) + 1)),
        sites_index=index % voxels,
        sites_values=values,
        lattice_index=lattice_index,
        lattice_values=lattice_values,
    )


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
