"""Environments: the same for one prototype, whatever its elements, size, cell and origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.neighborlist import primitive_neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtal.structures.environments import environments
from voxtal.structures.structure_set import StructureSet

ROCK_SALT = (
    np.array([11, 17]),
    np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]]),
    5.6 * (np.ones((3, 3)) - np.eye(3)) / 2,
)


def test_rock_salt() -> None:
    """Six neighbours of the other kind at half the edge, twelve of its own just beyond."""
    found = environments(*ROCK_SALT)
    unit = (5.6**3 / 8) ** (1 / 3)
    np.testing.assert_allclose(found[0, 1], [2.8 / unit, np.log(7)], rtol=1e-6)
    np.testing.assert_allclose(found[0, 0], [2.8 * 2**0.5 / unit, 0.0], rtol=1e-6)
    np.testing.assert_allclose(found, found.transpose(1, 0, 2), rtol=1e-6)


@given(st.floats(0.5, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_size_cell_and_origin_do_not_matter(scale: float, seed: int) -> None:
    """An arrangement would be another one in another cell, and nothing learned of it would hold."""
    numbers, frac_coords, cell = ROCK_SALT
    rng = np.random.default_rng(seed)
    shear = np.eye(3, dtype=int)
    shear[0, 1], shear[2, 0] = rng.integers(-2, 3, 2)
    moved = (frac_coords + rng.random(3)) @ np.linalg.inv(shear) % 1
    np.testing.assert_allclose(environments(numbers, moved, scale * shear @ cell), environments(*ROCK_SALT), atol=1e-4)


def test_real_crystals_against_ase(real_set: StructureSet) -> None:
    """Distances in skewed cells, where the nearest image is not the obvious one."""
    for row in range(0, len(real_set), 10):
        numbers, frac_coords, cell = real_set.arrays(row)
        unit = (abs(np.linalg.det(cell)) / len(numbers)) ** (1 / 3)
        first, second, distance = primitive_neighbor_list("ijd", (True,) * 3, cell, frac_coords @ cell, 2.2 * unit)
        elements: Any = np.unique(numbers).tolist()
        found = environments(numbers, frac_coords, cell)
        for i, one in enumerate(elements):
            for j, other in enumerate(elements):
                these = distance[(numbers[first] == one) & (numbers[second] == other)]
                assert abs(found[i, j, 0] - min(these.min(initial=np.inf) / unit, 2.2)) < 1e-5
                near = (these < 1.35 * unit).sum() / (numbers == one).sum()
                assert abs(np.expm1(found[i, j, 1]) - near) < 1e-3
