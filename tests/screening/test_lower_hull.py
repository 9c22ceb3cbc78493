from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition, Element

from voxtal.screening.lower_hull import heights, lower_hull

ELEMENTS = ("Al", "Cr", "Mn", "Ni", "Zr")
KINDS = ("energies", "all unstable", "ties", "duplicates", "nearly flat")


def random_phases(random: np.random.Generator, k: int, n: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of each element (n + k, k) and energies per atom; the first k are the elements."""
    counts = np.vstack([np.diag(random.integers(1, 4, k)), random.integers(0, 6, (n, k)) + np.eye(k, dtype=int)[0]])
    energies = random.normal(-0.2, 0.3, n + k)
    if kind == "all unstable":
        energies = np.abs(energies) + 0.1
        energies[:k] = 0.0
    elif kind == "ties":
        energies = energies.round(1)
    elif kind == "duplicates":
        counts, energies = np.vstack([counts, 2 * counts]), np.concatenate([energies, energies])
    elif kind == "nearly flat":
        energies = 1e-4 * energies - 5.0
    return counts, energies


def pymatgen_heights(counts: np.ndarray, energies: np.ndarray) -> np.ndarray:
    elements = [Element(symbol) for symbol in ELEMENTS[: counts.shape[1]]]
    entries = [
        PDEntry(Composition(dict(zip(elements, map(int, row), strict=True))), energy * row.sum())
        for row, energy in zip(counts, energies, strict=True)
    ]
    diagram = PhaseDiagram(entries, elements)
    return np.array([diagram.get_e_above_hull(entry, allow_negative=True) for entry in entries])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_heights_are_those_of_pymatgen(k, kind):
    """Energies above hull would be wrong for some arrangement of phases: 500 random ones, two to five elements."""
    random = np.random.default_rng([k, KINDS.index(kind)])
    for n in (0, 1, *random.integers(2, 40, 23)):
        counts, energies = random_phases(random, k, n, kind)
        fractions = counts / counts.sum(axis=1, keepdims=True)
        ours = heights(fractions, energies, lower_hull(fractions, energies))
        np.testing.assert_allclose(ours, pymatgen_heights(counts, energies), atol=1e-9)


def test_points_below_a_hull_have_negative_heights():
    """A discovery would lie on the known hull instead of below it."""
    fractions = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5]])
    energies = np.array([-1.0, -3.0, -2.5, -2.75])
    facets = lower_hull(fractions, energies, np.array([0, 1, 2]))
    assert sorted(np.sort(facets).tolist()) == [[0, 2], [1, 2]]
    np.testing.assert_allclose(heights(fractions, energies, facets, np.array([3])), [-0.25])


@pytest.mark.parametrize("k", [2, 3, 4])
def test_a_hull_grows_from_its_corners(k):
    """Round after round everything that was ever labelled would have to be looked at again, or be forgotten."""
    random = np.random.default_rng(k)
    counts, energies = random_phases(random, k, 600, "energies")
    fractions = counts / counts.sum(axis=1, keepdims=True)
    grown = lower_hull(fractions, energies, np.arange(150))
    for start in range(150, len(energies), 150):
        new = np.arange(start, min(start + 150, len(energies)))
        grown = lower_hull(fractions, energies, np.union1d(grown, new))
    whole = lower_hull(fractions, energies)
    np.testing.assert_allclose(heights(fractions, energies, grown), heights(fractions, energies, whole), atol=1e-12)


def test_one_element_and_dilute_compounds():
    """A hull of one element, or of compounds with a trace of another, would be a traceback or nonsense."""
    assert lower_hull(np.ones((3, 1)), np.array([0.0, -0.1, 0.2])).tolist() == [[1]]
    fractions = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.99998, 1e-5, 1e-5], [0.3, 0.3, 0.4]])
    energies = np.array([0.0, 0.0, 0.0, -1e-4, -0.5])
    facets = lower_hull(fractions, energies)
    np.testing.assert_allclose(heights(fractions, energies, facets), 0.0, atol=1e-9)
