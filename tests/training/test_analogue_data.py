"""Known crystals as arrangements: what is kept of them, and which of them are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.config import build_config
from voxtal.structures.structure_set import StructureSet
from voxtal.training.analogue_data import Arrangements, composition_of

HALF = [[0.0, 0, 0], [0.5, 0.5, 0.5]]


@pytest.fixture(scope="module")
def known() -> Arrangements:
    """Rock salts of two sizes, caesium chloride, copper, and one that is not wanted."""

    def rock_salt(edge: float, *elements: str) -> Any:
        return Structure(Lattice(edge * (np.ones((3, 3)) - np.eye(3)) / 2), elements, HALF)

    structures = [
        rock_salt(5.6, "Na", "Cl"),
        rock_salt(6.6, "K", "Br"),
        Structure(Lattice.cubic(4.1), ["Cs", "Cl"], HALF),
        Structure(Lattice.cubic(3.6), ["Cu"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
        rock_salt(4.2, "Mg", "O"),
    ]
    table = StructureSet.from_structures(structures, [f"s{i}" for i in range(5)])
    energies = np.array([-2.0, -1.9, np.nan, 0.0, -3.0])
    wanted = np.array([True, True, True, True, False])
    return Arrangements.of(table, wanted, build_config({}).voxels, {"formation_energy": energies})


def test_what_is_kept(known: Arrangements) -> None:
    """Atoms would be put into another crystal's cell, or elements be counted wrongly."""
    assert known.sizes.tolist() == [2, 2, 2, 1]
    assert known.atoms.tolist() == [2, 2, 2, 4]
    np.testing.assert_allclose(known.volumes, [5.6**3 / 8, 6.6**3 / 8, 4.1**3 / 2, 3.6**3 / 4], rtol=1e-5)
    np.testing.assert_array_equal(known.values[:, 0], [-2.0, -1.9, np.nan, 0.0])
    numbers, counts, pairs = known.batch(np.array([3, 0]), 3)
    assert numbers.tolist() == [[29, 0, 0], [11, 17, 0]]
    assert counts.tolist() == [[4, 0, 0], [1, 1, 0]]
    np.testing.assert_array_equal(pairs[1, :2, :2], pairs[1, :2, :2].transpose(1, 0, 2))
    assert not pairs[0, 1:].any()
    atoms = known.atoms_of(np.array([3, 0]), 4)
    assert [int(np.any(element, axis=1).sum()) for element in atoms[1:]] == [1, 1]
    distance = np.linalg.norm(atoms[1, 0] - atoms[2, 0])
    assert distance == pytest.approx(2.8, abs=1e-4)


def test_a_prototype_is_told_whatever_its_elements_and_size(known: Arrangements) -> None:
    """A prototype of a thousand crystals would fill the attempts with the same compositions."""
    first, second, third, fourth = known.prototypes().tolist()
    assert first == second
    assert len({first, third, fourth}) == 3


def test_compositions_are_reduced(known: Arrangements) -> None:
    """A doubled cell would pass for a new compound."""
    salt = frozenset({(11, 1), (17, 1)})
    assert composition_of(np.array([11, 17]), np.array([4, 4])) == salt
    assert salt in known.compositions()
    assert frozenset({(29, 1)}) in known.compositions()


def test_all_of_it_comes_back_from_a_models_record(known: Arrangements) -> None:
    """A generator that is opened again would have other crystals than it was trained on."""
    again = Arrangements.from_facts(known.facts())
    for name in ("offsets", "numbers", "counts", "pairs", "positions", "cells", "values"):
        np.testing.assert_array_equal(getattr(again, name), getattr(known, name))
        assert getattr(again, name).dtype == getattr(known, name).dtype
