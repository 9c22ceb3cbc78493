"""Ions from a density map alone."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxtal.representations.density import DensityGrid, encode_density
from voxtal.representations.density_decoding import CERTAIN
from voxtal.representations.density_peaks import find_peaks, likeliest, log_shapes, sharpened

GRID = DensityGrid(32, 0.25, "true")
PEROVSKITE = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
ELEMENTS = np.array([3, 8, 9, 12, 13, 17, 20, 22, 26, 27, 29, 38, 40, 41, 46, 50, 55, 56, 57, 72, 79, 82])


def found(numbers: list[int], frac: np.ndarray, cell: np.ndarray, grid: DensityGrid = GRID) -> tuple[float, bool]:
    """Residual of the peaks in a crystal's map, and whether they are its ions, at their places."""
    maps = encode_density(np.array(numbers), frac, cell, grid)
    peaks = find_peaks(maps.density, maps.cell, grid)
    species = likeliest(peaks.log_shapes(), np.unique([*ELEMENTS, *numbers]), grid)
    distances = np.linalg.norm((peaks.frac[:, None] - maps.sites) @ maps.cell, axis=2)
    same = len(peaks) == len(numbers) and bool(
        (distances.min(axis=0) < 0.01).all() and (species[distances.argmin(axis=0)] == numbers).all()
    )
    return peaks.residual, same


@given(
    x=st.sampled_from([26, 27, 29, 46]),
    y=st.sampled_from([22, 40, 72]),
    z=st.sampled_from([13, 50, 82]),
    edge=st.floats(5.8, 6.8),
)
def test_heuslers(x: int, y: int, z: int, edge: float) -> None:
    """Sixteen ions of three elements, each of which is told from all others of the list."""
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    frac = np.vstack([corners + shift for shift in (0.25, 0.75, 0.0, 0.5)]) % 1
    residual, same = found([*[x] * 8, *[y] * 4, *[z] * 4], frac, edge * np.eye(3))
    assert residual < CERTAIN
    assert same


@pytest.mark.parametrize(("numbers", "edge"), [((38, 22, 8), 3.91), ((56, 40, 8), 4.19)])
def test_perovskites(numbers: tuple[int, int, int], edge: float) -> None:
    """Oxygen, wider than the ions that it lies between, hardly has a maximum of its own."""
    a, b, x = numbers
    residual, same = found([a, b, x, x, x], PEROVSKITE, edge * np.eye(3))
    assert residual < CERTAIN
    assert same


def test_skewed_cell() -> None:
    """Ions of a rhombohedral cell are round, though the box is not."""
    cell = 5.0 * (np.full((3, 3), 0.12) + np.diag([0.9, 0.9, 0.9]))
    residual, same = found([56, 22, 8, 8, 8], PEROVSKITE, cell)
    assert residual < CERTAIN
    assert same


def test_one_width() -> None:
    """With a width for all ions heights alone tell the element."""
    grid = DensityGrid(32, 0.25, "true", 1.0)
    assert found([56, 22, 8, 8, 8], PEROVSKITE, 4.2 * np.eye(3), grid)[1]


def test_sharpening_narrows_gaussians() -> None:
    """A Gaussian of 1.25 A is one of 1.0 A, from which 0.75 A have been taken."""
    cell, line = 6.0 * np.eye(3), (GRID.centres - 0.5) * 6.0
    square = line[:, None, None] ** 2 + line[:, None] ** 2 + line**2
    wide, narrow = (np.exp(-0.5 * square / width**2) / width**3 for width in (1.25, 1.0))
    np.testing.assert_allclose(sharpened(wide, cell, GRID, 0.75), narrow, atol=0.02 * narrow.max())


@pytest.mark.parametrize("density", [np.zeros((32,) * 3), np.full((32,) * 3, np.nan), np.full((32,) * 3, -1.0)])
def test_nothing_to_find(density: np.ndarray) -> None:
    """An empty or broken map has no ions, and no exception either: networks make such maps."""
    assert len(find_peaks(density, 4 * np.eye(3), GRID)) == 0


def test_noise_ends() -> None:
    """What no ions explain takes seconds and is not certain."""
    began = time.process_time()
    peaks = find_peaks(np.random.default_rng(0).random((32,) * 3), 4 * np.eye(3), GRID)
    assert time.process_time() - began < 20
    assert not peaks.certain


def test_elements_are_their_own_likeliest() -> None:
    """Height and width in another order or unit."""
    assert (likeliest(log_shapes(ELEMENTS, GRID), ELEMENTS, GRID) == ELEMENTS).all()
