"""Our fit is StructureMatcher's, pair by pair, on real structures."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from voxtal.structures.fitting import MatcherSettings, Reduced, fits, lattices_may_fit
from voxtal.structures.matching import CDVAE, STRICT, Matcher
from voxtal.structures.structure_set import StructureSet

Pairs = list[tuple[Reduced, Reduced]]


def as_reduced(structure: Structure) -> Reduced:
    reduced = Matcher().reduce(structure)
    assert reduced is not None
    return reduced


@pytest.fixture(scope="module")
def real_pairs(real_set: StructureSet) -> Pairs:
    """A real structure, and itself or another one of its stoichiometry with its elements, disturbed."""
    random = np.random.default_rng(0)
    reduced = [as_reduced(structure) for structure in real_set.subset(np.arange(0, len(real_set), 2))]
    alike: dict[tuple[int, ...], list[Reduced]] = {}
    for one in reduced:
        alike.setdefault(tuple(sorted(np.unique(one.numbers, return_counts=True)[1])), []).append(one)
    pairs: Pairs = []
    for one in reduced:
        counts = np.unique(one.numbers, return_counts=True)[1]
        group = alike[tuple(sorted(counts))]
        for other in (one, group[int(random.integers(len(group)))]):
            pairs.append((one, disturbed(renamed(other, one.numbers), random)))
    return pairs


def renamed(crystal: Reduced, numbers: np.ndarray) -> Reduced:
    """The crystal made of other elements, the rarest for the rarest."""
    (old, counts), (new, new_counts) = (np.unique(z, return_counts=True) for z in (crystal.numbers, numbers))
    table = np.zeros(256, dtype=int)
    table[old[np.argsort(counts, kind="stable")]] = new[np.argsort(new_counts, kind="stable")]
    found = table[crystal.numbers]
    order = np.argsort(found, kind="stable")
    return Reduced(found[order], crystal.frac_coords[order], crystal.cell)


def disturbed(crystal: Reduced, random: np.random.Generator) -> Reduced:
    size = random.choice([0.0, 0.2, 0.6])
    moved = crystal.frac_coords + random.normal(0, size, crystal.frac_coords.shape) @ np.linalg.inv(crystal.cell)
    cell = crystal.cell @ (np.eye(3) + random.normal(0, random.choice([0.0, 0.06]), (3, 3)))
    return Reduced(crystal.numbers, (moved + random.random(3)) % 1, cell)


@pytest.mark.parametrize("settings", [STRICT, CDVAE])
def test_every_answer_is_structure_matchers(real_pairs: Pairs, settings: MatcherSettings) -> None:
    """Uniqueness and novelty would be another metric than the one they are called by."""
    theirs = StructureMatcher(
        ltol=settings.ltol, stol=settings.stol, angle_tol=settings.angle_tol, primitive_cell=False
    )
    expected = [theirs.fit(one.structure, two.structure, skip_structure_reduction=True) for one, two in real_pairs]
    assert [fits(one, two, settings) for one, two in real_pairs] == expected
    assert 0.2 < np.mean(expected) < 0.9


@pytest.mark.parametrize("settings", [STRICT, CDVAE])
def test_no_match_is_rejected_by_its_lattice(real_pairs: Pairs, settings: MatcherSettings) -> None:
    """A rejection that is not implied would call known structures novel."""
    assert len(real_pairs) > 200
    possible = [bool(lattices_may_fit(one.minima[None], two, settings)[0]) for one, two in real_pairs]
    matching = [fits(one, two, settings) for one, two in real_pairs]
    assert all(may for may, fit in zip(possible, matching, strict=True) if fit)
    assert not all(possible)


def test_minima_of_a_cell_that_is_not_reduced_claim_nothing() -> None:
    """Edges of any other cell are no bound: a match would be rejected."""
    cubic = Lattice.cubic(3.0).matrix
    skewed = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) @ cubic
    bulging = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]]) @ cubic
    assert Reduced(np.array([3]), np.zeros((1, 3)), cubic).minima == pytest.approx(np.ones(3))
    for cell in (skewed, bulging):
        assert Reduced(np.array([3]), np.zeros((1, 3)), cell).minima.tolist() == [0, 0, 0]
        assert fits(
            Reduced(np.array([3]), np.zeros((1, 3)), cell), Reduced(np.array([3]), np.zeros((1, 3)), cubic), STRICT
        )
