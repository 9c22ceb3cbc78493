"""What coincides matches; displacements are those that were made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from voxtal.structures.matching import CDVAE, STRICT, MatcherSettings
from voxtal.structures.structure_set import StructureSet
from voxtal.structures.superposition import MAX_DISPLACEMENT_ANGSTROM, MAX_STRAIN, displacements


def disturbed(arrays: tuple, random: np.random.Generator) -> tuple:
    """Atoms displaced by up to 0.008 A and in another order, the origin moved, the cell strained by up to 0.08%."""
    numbers, frac_coords, cell = arrays
    strain = random.uniform(-1, 1, (3, 3))
    other_cell = cell @ (np.eye(3) + 0.8 * MAX_STRAIN * strain / np.linalg.norm(strain))
    order = random.permutation(len(numbers))
    directions = random.normal(size=frac_coords.shape)
    directions *= 0.4 * MAX_DISPLACEMENT_ANGSTROM / np.linalg.norm(directions, axis=1, keepdims=True)
    moved = frac_coords + directions @ np.linalg.inv(cell) + random.random(3)
    return numbers[order], moved[order] % 1, other_cell


@pytest.mark.parametrize("settings", [STRICT, CDVAE])
def test_what_coincides_matches(real_set: StructureSet, settings: MatcherSettings) -> None:
    """The shortcut past StructureMatcher must never call equal what that does not."""
    random = np.random.default_rng(1)
    for reduction in (False, True):
        matcher = StructureMatcher(
            ltol=settings.ltol, stol=settings.stol, angle_tol=settings.angle_tol, primitive_cell=reduction
        )
        for i in range(reduction, len(real_set), 3):
            one, two = real_set.arrays(i), disturbed(real_set.arrays(i), random)
            assert displacements(*one, *two) is not None
            structures = [Structure(Lattice(cell), z.tolist(), frac) for z, frac, cell in (one, two)]
            assert matcher.fit(*structures), real_set.ids[i]


def test_rms_is_structure_matchers(real_set: StructureSet) -> None:
    """Figures of the two ways are averaged together."""
    random = np.random.default_rng(2)
    matcher = StructureMatcher(primitive_cell=False)
    for i in range(0, len(real_set), 10):
        one, two = real_set.arrays(i), disturbed(real_set.arrays(i), random)
        moved = displacements(*one, *two)
        assert moved is not None
        structures = [Structure(Lattice(cell), z.tolist(), frac) for z, frac, cell in (one, two)]
        expected = matcher.get_rms_dist(*structures)[0] * (structures[0].volume / len(one[0])) ** (1 / 3)
        assert np.sqrt((moved**2).sum(axis=1).mean()) == pytest.approx(expected, abs=5e-5)


CELL = np.array([[4.0, 0, 0], [1.0, 5.0, 0], [0.5, -1.0, 6.0]])
SITES = np.array([[0.1, 0.1, 0.1], [0.6, 0.6, 0.1], [0.1, 0.6, 0.7], [0.7, 0.2, 0.6]])
NUMBERS = np.array([8, 8, 8, 22])


@given(st.permutations(range(4)), st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.integers(0, 3))
def test_order_and_origin_do_not_matter(order: list[int], shift: list[float], moved: int) -> None:
    """A decoded structure lists its atoms by element and has another origin."""
    other = SITES + np.array(shift)
    other[moved] += np.array([0.006, 0, 0]) @ np.linalg.inv(CELL)
    found = displacements(NUMBERS, SITES, CELL, NUMBERS[order], other[order], CELL)
    assert found is not None
    expected = np.zeros((4, 3))
    expected[moved, 0] = 0.006
    assert found == pytest.approx(expected - expected.mean(axis=0), abs=1e-9)


@pytest.mark.parametrize("change", ["element", "count", "far", "swapped", "cell", "mirrored"])
def test_what_does_not_coincide(change: str) -> None:
    """Anything wrongly called equal here would count as reproduced."""
    numbers, sites, cell = NUMBERS.copy(), SITES.copy(), CELL.copy()
    if change == "element":
        numbers[0] = 9
    elif change == "count":
        numbers, sites = numbers[1:], sites[1:]
    elif change == "far":
        sites[1, 2] += 0.004
    elif change == "swapped":
        sites[[0, 3]] = sites[[3, 0]]
    elif change == "cell":
        cell = cell * 1.002
    else:
        sites = -sites
    assert displacements(NUMBERS, SITES, CELL, numbers, sites, cell) is None
