"""Which candidates are labelled."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voxtal.active.acquisition import select_candidates

RANDOM = np.random.default_rng(0)


@given(
    m=st.integers(0, 30),
    n=st.integers(0, 40),
    diversity=st.floats(0, 1),
    seed=st.integers(0, 20),
    alike=st.booleans(),
)
def test_choice_is_a_set_of_at_most_n(m: int, n: int, diversity: float, seed: int, alike: bool) -> None:
    """A candidate that is calculated twice, or one more than the budget; the same call gives the same choice."""
    random = np.random.default_rng(seed)
    energies = random.standard_normal(m)
    features = np.zeros((m, 3)) if alike else random.standard_normal((m, 3))
    chosen = select_candidates(energies, features, n, diversity)
    assert len(chosen) == min(m, n) == len(np.unique(chosen))
    assert np.isin(chosen, np.arange(m)).all()
    assert np.array_equal(chosen, select_candidates(energies, features, n, diversity))


def test_without_diversity_the_lowest_energies_are_chosen() -> None:
    """In order, lowest first."""
    energies = RANDOM.standard_normal(50)
    chosen = select_candidates(energies, RANDOM.standard_normal((50, 4)), 10, 0.0)
    assert chosen.tolist() == np.argsort(energies)[:10].tolist()


def test_the_lowest_energy_is_always_chosen() -> None:
    """Whatever the diversity, the best prediction is tested."""
    energies = RANDOM.standard_normal(20)
    for diversity in (0.0, 0.5, 1.0):
        chosen = select_candidates(energies, RANDOM.standard_normal((20, 2)), 3, diversity)
        assert chosen[0] == np.argmin(energies)


def test_with_diversity_alone_every_cluster_is_visited() -> None:
    """Four clusters, the lowest energies all in one: energy alone stays there, distance goes round."""
    centres = np.array([[0, 0], [50, 0], [0, 50], [50, 50]])
    cluster = np.repeat(np.arange(4), 10)
    features = centres[cluster] + RANDOM.standard_normal((40, 2))
    energies = cluster + 0.01 * RANDOM.standard_normal(40)
    assert set(cluster[select_candidates(energies, features, 4, 0.0)]) == {0}
    assert set(cluster[select_candidates(energies, features, 4, 1.0)]) == {0, 1, 2, 3}


def test_unknown_energies_come_last() -> None:
    """NaN is no low energy."""
    energies = np.array([np.nan, 0.5, -0.1, np.nan])
    assert select_candidates(energies, np.zeros((4, 1)), 2, 0.0).tolist() == [2, 1]
