"""Lattice voxels against a slow dense implementation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from voxtal.errors import UserError
from voxtal.representations.lattice import LatticeGrid, encode_lattice
from voxtal.representations.placement import standard_cell
from voxtal.representations.reasons import Unencodable
from voxtal.representations.voxels import dense

LAPTOP = LatticeGrid(16, 0.5, 0.02)


def dense_reference(cell, grid, images=4):
    """The definition word by word: every grid point, minimum image over (2 images + 1)^3 cells."""
    axis = np.arange(grid.size) / grid.size - 0.5
    frac = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    squared = np.full((grid.size,) * 3, np.inf)
    for offset in itertools.product(range(-images, images + 1), repeat=3):
        squared = np.minimum(squared, (((frac + offset) @ cell) ** 2).sum(axis=-1))
    image = np.exp(-squared / (2 * grid.sigma**2))
    image[image < grid.cutoff] = 0
    return image


def render(cell, grid):
    return dense(*encode_lattice(cell, grid), grid.size)


@pytest.mark.parametrize("size", [8, 16])
def test_encoding_equals_the_definition(size, random_cells):
    """Voxels would differ from the published ones."""
    grid = LatticeGrid(size, 0.8, 0.02)
    for cell in random_cells(20, seed=0):
        assert np.abs(render(cell, grid) - dense_reference(cell, grid)).max() < 1e-6


def test_encoding_equals_the_definition_in_flat_skewed_cells():
    """Wrapping steps one by one is wrong where a perpendicular height is under 1.45 angstrom."""
    for angle in (20.0, 35.0, 150.0):
        cell = standard_cell(np.array([3.0, 4.0, 5.0]), np.array([90.0, 90.0, angle]))
        for grid in (LAPTOP, LatticeGrid(16, 0.26, 0.02)):
            assert np.abs(render(cell, grid) - dense_reference(cell, grid, images=6)).max() < 1e-6


def test_odd_grids_are_refused():
    """The pseudo-atom would lie between grid points, and decoding would be off by half a step."""
    with pytest.raises(UserError, match="lattice_grid"):
        LatticeGrid(15, 0.5, 0.02)


def test_cells_that_the_voxels_cannot_hold_have_a_reason():
    """A cell whose neighbouring points lie beyond the Gaussian cannot be told from a larger one."""
    with pytest.raises(Unencodable, match="too large"):
        encode_lattice(np.diag([4.0, 4.0, 40.0]), LAPTOP)
    with pytest.raises(Unencodable, match="too flat"):
        encode_lattice(np.diag([8.0, 8.0, 1e-4]), LatticeGrid(32, 0.5, 0.02))
