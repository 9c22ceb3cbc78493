"""Which known crystal an attempt is like: as often as is wanted, in even turns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtal.generation.wishes import evenly_drawn_rows


@given(st.integers(0, 2**32), st.lists(st.floats(0, 1), min_size=3, max_size=40).filter(lambda x: sum(x) > 0.1))
@settings(max_examples=50, deadline=None)
def test_rows_come_as_often_as_they_are_likely(seed: int, likely: list[float]) -> None:
    """What the objectives like would not come more often, or what they exclude would come."""
    shares = np.array(likely) / sum(likely)
    rows = evenly_drawn_rows(shares, np.arange(len(shares)) % 3, np.arange(20_000), seed)
    drawn = np.bincount(rows, minlength=len(shares)) / 20_000
    np.testing.assert_allclose(drawn, shares, atol=2e-3)
    assert not drawn[shares == 0].any()


def test_turns_are_even_within_a_kind() -> None:
    """By chance 1,000 attempts at 1,000 rows leave out more than a third of them."""
    kinds = np.arange(1000) % 20
    rows = evenly_drawn_rows(np.full(1000, 1e-3), kinds, np.arange(1000), 3)
    assert len(set(rows.tolist())) > 850  # by chance, 632
    assert np.bincount(kinds[rows]) == pytest.approx(np.full(20, 50), abs=1)


def test_an_attempt_depends_on_its_number_and_the_seed_alone() -> None:
    """Another number of attempts, or of ranks, would give other crystals."""
    likely, kinds = np.full(50, 0.02), np.arange(50) % 7
    rows = evenly_drawn_rows(likely, kinds, np.arange(64), 1)
    np.testing.assert_array_equal(evenly_drawn_rows(likely, kinds, np.arange(40, 64), 1), rows[40:])
    assert (evenly_drawn_rows(likely, kinds, np.arange(64), 2) != rows).any()
