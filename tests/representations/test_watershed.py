"""The published decoder on what it was made for."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.representations.density import DensityGrid, binary_map, encode_density
from voxtal.representations.reasons import Undecodable
from voxtal.representations.watershed import decode_watershed, watershed_sites

GRID = DensityGrid(32, 0.25, "orthogonal")
CORNERS = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def test_a_cubic_perovskite_comes_back():
    """The baseline would look worse than it is: half a voxel or the margin off."""
    numbers, cell = np.array([56, 22, 8, 8, 8]), np.eye(3) * 4.6
    maps = encode_density(numbers, CORNERS, cell, GRID)
    found, frac_coords, _ = decode_watershed(maps.species, binary_map(maps.species), maps.cell, GRID)
    assert sorted(found.tolist()) == sorted(numbers.tolist())
    steps = frac_coords[:, None] - CORNERS
    distances = np.linalg.norm((steps - np.rint(steps)) @ cell, axis=-1) + 9.0 * (found[:, None] != numbers)
    assert distances.min(axis=0).max() < 0.2


def ball(centre, radius):
    """(32, 32, 32) bool."""
    squared = ((np.indices((32,) * 3).T - centre) ** 2).sum(axis=-1).T
    return squared <= radius**2


def test_touching_balls_are_split_and_crumbs_dropped():
    """The recursion over regions that are not convex is what the published decoder is."""
    species = np.zeros((32,) * 3, dtype=np.uint8)
    species[ball((10, 16, 16), 4)] = 8
    species[ball((19, 16, 16), 4)] = 26
    species[28, 28, 28:31] = 5
    numbers, centroids = watershed_sites(species, binary_map(species))
    assert sorted(numbers.tolist()) == [8, 26]
    assert np.allclose(centroids[np.argsort(numbers)], [[10, 16, 16], [19, 16, 16]], atol=0.7)


def test_the_binary_map_is_cut_at_0_8():
    """A network's probabilities would be counted as ions from 0 on."""
    species = np.where(ball((16, 16, 16), 4), 8, 0)
    assert len(watershed_sites(species, 0.79 * (species > 0))[0]) == 0
    assert len(watershed_sites(species, 0.81 * (species > 0))[0]) == 1


def test_an_empty_map_has_a_reason():
    """A generator's garbage would end in a traceback."""
    with pytest.raises(Undecodable, match="no regions"):
        decode_watershed(np.zeros((32,) * 3), np.zeros((32,) * 3), np.eye(3), GRID)


def test_flat_regions_warn_nobody():
    """The hull of a flat region fails loudly, for thousands of structures."""
    species = np.zeros((32,) * 3, dtype=np.uint8)
    species[4:8, 4:8, 5] = 8
    assert watershed_sites(species, binary_map(species))[0].tolist() == [8]
