"""ICSG3D's own decoder: recursive watershed segmentation of the binary map (doi:10.1021/acs.jcim.0c00464, SI).

Kept to measure against; :mod:`voxtal.representations.density_decoding` is the better one. It follows the authors'
public code, with one thing that looks unintended there: the band between an eroded and a dilated region is left open
to the watershed only in the first region of each call, because regions are compared by their label and not as 0 and 1.
Of later regions that are not convex only the eroded core remains.
"""

from __future__ import annotations

import warnings

import numpy as np

from voxtal.representations.density import DensityGrid
from voxtal.representations.reasons import Undecodable

BINARY_THRESHOLD = 0.8
MIN_CONVEXITY = 0.8
SMALLEST_REGION = 4
"""Voxels; smaller regions are dropped."""

VOXELS_PER_ATOM = 8
MAX_ITERATIONS = 5


def decode_watershed(
    species: np.ndarray, binary: np.ndarray, cell: np.ndarray, grid: DensityGrid
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crystal by the published way: atomic numbers (n,), fractional coordinates (n, 3) in [0, 1), cell (3, 3).

    Parameters
    ----------
    species
        (N, N, N) species map.
    binary
        (N, N, N) binary map, or a network's probabilities of it.
    cell
        (3, 3) lattice vectors as rows, angstrom; with right angles in the published setting.

    Raises
    ------
    Undecodable
        There are no atoms.
    """
    numbers, centroids = watershed_sites(species, binary)
    if not len(numbers):
        raise Undecodable("no regions in the binary map")
    frac = grid.fractional(centroids)
    return numbers, frac - np.floor(frac), np.asarray(cell, dtype=np.float64)


def watershed_sites(species: np.ndarray, binary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers (n,) and centroids (n, 3) in units of voxels, one for each region of the segmented binary map.

    The species of a region is the commonest in it, the highest of equals; regions without one are dropped.
    """
    species = np.asarray(species).astype(np.int64)
    regions = _segment((np.asarray(binary) >= BINARY_THRESHOLD).astype(np.int64), 1)
    numbers, centroids = [], []
    for region in range(1, regions.max() + 1):
        voxels = np.argwhere(regions == region)
        counts = np.bincount(species[tuple(voxels.T)], minlength=2)[1:]
        if len(voxels) and counts.any():
            numbers.append(len(counts) - int(np.argmax(counts[::-1])))
            centroids.append(voxels.mean(axis=0))
    return np.array(numbers, dtype=np.int64), np.array(centroids).reshape(-1, 3)


def _segment(image: np.ndarray, iteration: int) -> np.ndarray:
    """Regions of ``image``, numbered from 1; connected voxels of one value belong together at first."""
    from skimage.measure import label, regionprops
    from skimage.morphology import convex_hull_image

    regions = np.zeros(image.shape, dtype=np.int64)
    labels = label(image, connectivity=1)
    for component in regionprops(labels):
        if component.area < SMALLEST_REGION:
            continue
        crop = component.image.astype(np.int64)
        parts = crop
        with warnings.catch_warnings(action="ignore"):  # a flat region has no hull, and counts as convex
            hull = convex_hull_image(crop)
        if component.area < MIN_CONVEXITY * np.count_nonzero(hull):
            parts = _split(crop, component.label == 1)
            n_parts = len(np.unique(parts)) - 1
            if np.count_nonzero(parts) // VOXELS_PER_ATOM > n_parts and iteration < MAX_ITERATIONS:
                parts = _segment(parts, iteration + 1)
        place = regions[component.slice]
        place[parts != 0] = parts[parts != 0] + regions.max()
    return regions


def _split(crop: np.ndarray, flood: bool) -> np.ndarray:
    """The pieces that erosion leaves of one region, grown back by a watershed where ``flood``."""
    from skimage.measure import label
    from skimage.morphology import ball, dilation, erosion
    from skimage.segmentation import watershed

    eroded, dilated = erosion(crop, ball(1)), dilation(crop, ball(1))
    markers = label(eroded) + 1
    if flood:
        markers[dilated - eroded == 1] = 0
    parts = watershed(crop, markers)
    parts[parts == 1] = 0
    return np.asarray(parts, dtype=np.int64)
