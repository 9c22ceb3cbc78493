"""Neighbours: the right ones, in cells of any shape, and the same for every way to write a crystal down."""

from __future__ import annotations

import numpy as np
import pytest
from ase.neighborlist import primitive_neighbor_list

from voxtal.representations import neighbours as module
from voxtal.representations.neighbours import LIMIT, neighbours
from voxtal.structures.structure_set import StructureSet


def one(numbers: list[int], frac_coords: list[list[float]], cell: np.ndarray) -> StructureSet:
    from pymatgen.core import Lattice, Structure

    return StructureSet.from_structures([Structure(Lattice(cell), numbers, frac_coords)], ["a"])


PEROVSKITE = [[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
"""SrTiO3, an oxygen of which has 2 titanium, and then 4 strontium and 8 oxygen equally far."""


@pytest.mark.parametrize("beyond", [1.0, 1.1])
def test_real_crystals_against_ase(real_set: StructureSet, beyond: float) -> None:
    """Distances in skewed cells and layered crystals, where the sphere searched first holds too few."""
    some = real_set.subset(range(0, len(real_set), 12))
    found = neighbours(some, beyond=beyond)
    assert found.starts[-1] == len(found.atoms) == len(found.distances) == len(found.weights)
    for row in range(len(some)):
        _, frac_coords, cell = some.arrays(row)
        centre, other, distance = primitive_neighbor_list("ijd", (True,) * 3, cell, frac_coords @ cell, LIMIT)
        for atom in range(len(frac_coords)):
            there = distance[centre == atom]
            farthest = np.partition(there, 11)[11] if len(there) >= 12 else np.inf
            expected = np.sort(there)[:12] if beyond == 1 else np.sort(there[there < beyond * farthest])
            place = slice(*found.starts[some.offsets[row] + atom :][:2])
            ours = found.distances[place]
            np.testing.assert_allclose(ours, expected, atol=2e-3)  # they are sorted by distances rounded to 0.001 A
            for neighbour, d in zip(found.atoms[place], ours, strict=True):
                assert np.abs(distance[(centre == atom) & (other == neighbour)] - d).min() < 1e-4


def test_blocks_and_the_first_search_do_not_matter(real_set: StructureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge that points to another structure's atom; a neighbour that the smaller sphere has lost."""
    some = real_set.subset(range(0, len(real_set), 10))
    expected = neighbours(some, beyond=1.1)
    monkeypatch.setattr(module, "_BLOCK", 7)
    monkeypatch.setattr(module, "_FIRST_TRY", 4)
    found = neighbours(some, beyond=1.1)
    for name in ("starts", "atoms", "distances", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_whole_shells_count_the_same_in_every_cell() -> None:
    """Which of equally far neighbours are taken would depend on how the crystal is written down."""
    perovskite = one([38, 22, 8, 8, 8], PEROVSKITE, 3.9 * np.eye(3))
    shear = np.array([[1, 2, 0], [0, 1, 0], [-1, 0, 1]])
    order = [3, 0, 4, 2, 1]
    frac = np.add(PEROVSKITE, [0.3, 0.1, 0.7]) @ np.linalg.inv(shear) % 1
    other = one([[38, 22, 8, 8, 8][i] for i in order], frac[order].tolist(), shear @ (3.9 * np.eye(3)))
    first, second = neighbours(perovskite, beyond=1.1), neighbours(other, beyond=1.1)
    for place, atom in enumerate(order):
        a, b = (slice(*found.starts[i:][:2]) for found, i in ((first, atom), (second, place)))
        assert sorted(zip(perovskite.numbers[first.atoms[a]], first.distances[a].round(3), strict=True)) == sorted(
            zip(other.numbers[second.atoms[b]], second.distances[b].round(3), strict=True)
        )
    oxygen = slice(*first.starts[2:4])
    assert np.bincount(perovskite.numbers[first.atoms[oxygen]])[[8, 22, 38]].tolist() == [8, 2, 4]
    np.testing.assert_allclose(first.weights[oxygen], 1, atol=1e-6)


def test_exactly_twelve_as_published() -> None:
    """Of equally far ones the lighter: 2 titanium and 8 oxygen, and 2 of 4 strontium."""
    found = neighbours(one([38, 22, 8, 8, 8], PEROVSKITE, 3.9 * np.eye(3)))
    assert np.diff(found.starts).tolist() == [12] * 5
    assert found.atoms[slice(*found.starts[2:4])].tolist().count(0) == 2
    np.testing.assert_array_equal(found.weights, 1)


def test_weights_fall_smoothly() -> None:
    """Body-centred: 8 and 6 up to the twelfth; stretched a little, what is beyond it fades."""
    near = neighbours(one([26], [[0, 0, 0]], 2.87 * (0.5 - np.eye(3))), beyond=1.1)
    assert near.weights.round(6).tolist() == [1.0] * 14
    cell = 2.87 * (0.5 - np.eye(3)) @ np.diag([1, 1, 1.05])
    assert neighbours(one([26], [[0, 0, 0]], cell), beyond=1.1).weights.round(3).tolist() == [1.0] * 12 + [0.5] * 2


def test_atom_with_few_neighbours() -> None:
    """One in a large box: those that there are within the limit, and no invented ones."""
    found = neighbours(one([2], [[0, 0, 0]], np.diag([7.0, 9.0, 9.0])), beyond=1.1)
    assert found.distances.tolist() == [7.0, 7.0]
    assert len(neighbours(one([2], [[0, 0, 0]], 9.0 * np.eye(3))).atoms) == 0
