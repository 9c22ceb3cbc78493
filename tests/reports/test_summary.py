"""Shares, intervals and targets of a run."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from voxtal.reports.run_data import RoundData
from voxtal.reports.summary import targets, wilson_interval


@given(trials=st.integers(1, 10_000), data=st.data())
def test_wilson_interval_is_scipys(trials: int, data: st.DataObject) -> None:
    """A wrong interval would make a chance difference look like progress."""
    successes = data.draw(st.integers(0, trials))
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-4)


def _round(index: int, **summary: Any) -> RoundData:
    return RoundData(index, summary, {}, {}, [], {}, None, {})


def test_targets_take_the_newest_round_and_the_best_hull_distance() -> None:
    """The best of all rounds for every figure would hide a later round that got worse."""
    rounds = [
        _round(0, reproduction_ratio_strict=0.97, n_attempts=10, n_valid=9, best_e_above_hull_ev_per_atom=0.05),
        _round(1, reproduction_ratio_strict=0.90, n_attempts=10, n_valid=4, best_e_above_hull_ev_per_atom=0.3),
    ]
    reproduction, valid, hull = targets(rounds)
    assert (reproduction.value, reproduction.met) == (0.90, False)
    assert (valid.value, valid.met) == (0.4, False)
    assert (hull.value, hull.met) == (0.05, True)


def test_a_round_that_relaxed_nothing_leaves_its_target_open() -> None:
    """No figure is neither met nor missed."""
    best = {"best_e_above_hull_ev_per_atom": None}
    assert [target.met for target in targets([_round(0, **best)])] == [None, None, None]
    assert [target.met for target in targets([])] == [None, None, None]
