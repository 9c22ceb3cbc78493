"""The substitution baseline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.structures.structure_set import SOURCE, StructureSet
from voxtal.structures.substitution import atomic_volumes, substituted, substitution_weights

HALITES = {
    ("Na", "Cl"): 5.64,
    ("K", "Cl"): 6.29,
    ("Na", "Br"): 5.97,
    ("K", "Br"): 6.60,
    ("Li", "F"): 4.03,
    ("Mg", "O"): 4.21,
    ("Ca", "O"): 4.81,
}


def halite(first: str, second: str, edge: float) -> Any:
    return Structure.from_spacegroup(225, Lattice.cubic(edge), [first, second], [[0] * 3, [0.5] * 3])


@pytest.fixture(scope="module")
def known() -> StructureSet:
    return StructureSet.from_structures(
        [halite(*pair, edge) for pair, edge in HALITES.items()], ["".join(pair) for pair in HALITES]
    )


def test_an_attempt_depends_on_seed_and_number_alone(known: StructureSet) -> None:
    """A longer run, or one on more ranks, would not be the same experiment."""
    short, long = substituted(known, 5, 3), substituted(known, 40, 3)
    for i in range(5):
        for a, b in zip(short.arrays(i), long.arrays(i), strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(long.numbers, substituted(known, 40, 4).numbers)


def test_attempts_keep_the_parents_sites_and_number_of_elements(known: StructureSet) -> None:
    """Merging two elements, or taking one that the data lack, would be another baseline."""
    attempts = substituted(known, 60, 0)
    place = {id: i for i, id in enumerate(known.ids.tolist())}
    changed = 0
    for i in range(len(attempts)):
        numbers, frac, _ = attempts.arrays(i)
        old, old_frac, _ = known.arrays(place[str(attempts.provenance[SOURCE][i])])
        np.testing.assert_array_equal(frac, old_frac)
        pairs = set(zip(old.tolist(), numbers.tolist(), strict=True))
        assert len(pairs) == len(set(old.tolist())) == len(set(numbers.tolist()))
        changed += any(a != b for a, b in pairs)
    assert set(attempts.numbers.tolist()) <= set(known.numbers.tolist())
    assert changed > 50


def test_volumes_fit_the_known_structures(known: StructureSet) -> None:
    """Without a fitting volume every baseline structure starts from overlapping or far-off atoms."""
    volumes = atomic_volumes(known)
    for i in range(len(known)):
        numbers, _, cell = known.arrays(i)
        assert volumes[numbers].sum() == pytest.approx(abs(np.linalg.det(cell)), rel=0.1)


def test_similar_elements_replace_each_other() -> None:
    """The baseline is strong only because sodium becomes potassium more often than titanium."""
    weights = substitution_weights()
    na, k, ti, cl, br, o = 11, 19, 22, 17, 35, 8
    assert weights[na, k] > 3 * weights[na, ti]
    assert weights[cl, br] > 10 * weights[cl, o]
    assert (weights.diagonal() == 0).all()
    np.testing.assert_allclose(weights, weights.T)
