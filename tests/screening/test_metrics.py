"""Figures of merit against numbers done by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from voxtal.screening.metrics import regression, relaxation, reproduction, share


def test_regression_by_hand() -> None:
    """Errors of 1, 0, 1 and 2 about a mean of 2.5: MAE 1, R2 1 - 6/5."""
    answer = regression(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 2.0, 2.0, 2.0]))
    assert answer == {"n": 4, "mae": 1.0, "r2": pytest.approx(1 - 6 / 5)}
    assert regression(np.array([1.0, 2.0]), np.array([1.0, 2.0])) == {"n": 2, "mae": 0.0, "r2": 1.0}


@pytest.mark.parametrize("targets", [[], [0.3], [0.3, 0.3]])
def test_regression_without_spread(targets: list[float]) -> None:
    """R2 of equal targets is no number; no targets are no error."""
    answer = regression(np.array(targets), np.array(targets) + 0.1)
    assert answer["n"] == len(targets)
    assert answer["r2"] is None
    assert answer["mae"] == (pytest.approx(0.1) if targets else None)


def test_reproduction_counts_failures_in_the_denominator(copper_gold: list[Any]) -> None:
    """Undecodable structures count as not reproduced, and a wrong one does too."""
    first, second, third = copper_gold[-3:]
    shifted = first.copy()
    shifted.translate_sites(range(len(shifted)), [0.1, 0.2, 0.3])
    answer = reproduction([first, second, third, third], [shifted, None, third, first])
    assert (answer["n"], answer["n_strict"], answer["strict"]) == (4, 2, 0.5)
    assert answer["cdvae"] >= answer["strict"]


def test_looser_settings_accept_more(copper_gold: list[Any]) -> None:
    """Both columns from one matcher would hide what the strict one refuses."""
    original = copper_gold[-3]
    answers = []
    for shift in np.linspace(0, 0.5, 11):
        moved = original.copy()
        moved.translate_sites(1, [shift, 0, 0])
        answer = reproduction([original], [moved])
        answers.append((answer["n_strict"], answer["n_cdvae"]))
    assert answers[0] == (1, 1)
    assert (0, 1) in answers
    assert (1, 0) not in answers


def test_reproduction_of_nothing() -> None:
    """A run without held-out structures has no held-out ratio; it is not 0."""
    answer = reproduction([], [])
    assert (answer["n"], answer["strict"], answer["cdvae"]) == (0, None, None)


def test_relaxation_by_hand() -> None:
    """Means over the relaxed ones, signed distances to the known hull, 0.1 included."""
    answer = relaxation(np.array([-0.3, 0.2]), np.array([-0.1, 0.5]), np.array([-0.02, 0.1]))
    assert answer == {
        "n_relaxed": 2,
        "mean_abs_delta_ef_ev_per_atom": pytest.approx(0.25),
        "fraction_negative_ef": 0.5,
        "best_e_above_hull_ev_per_atom": -0.02,
        "n_within_0.1_of_hull": 2,
    }


def test_relaxation_of_none() -> None:
    """Nothing selected: no figure, and no warning about an empty mean."""
    nothing = np.empty(0)
    answer = relaxation(nothing, nothing, nothing)
    assert answer["n_relaxed"] == 0
    assert answer["best_e_above_hull_ev_per_atom"] is None
    assert answer["n_within_0.1_of_hull"] == 0


def test_candidate_without_a_hull_does_not_hide_the_others() -> None:
    """A distance that is not known (no hull for its system) is no number, and the best of the rest stays."""
    energies = np.array([-0.3, -0.2])
    assert relaxation(energies, energies, np.array([np.nan, 0.04]))["best_e_above_hull_ev_per_atom"] == 0.04
    assert relaxation(energies, energies, np.full(2, np.nan))["best_e_above_hull_ev_per_atom"] is None


def test_wilson_interval_of_a_share() -> None:
    """Reported intervals; the values are of Newcombe, Stat. Med. 17, 857 (1998), table I, and the edges stay shares."""
    found = share(81, 263)
    assert (found["low"], found["high"]) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    none, every = share(0, 20), share(20, 20)
    assert none["low"] == 0.0
    assert none["high"] == pytest.approx(0.1611, abs=5e-5)
    assert every["high"] == 1.0
    assert every["low"] == pytest.approx(1 - 0.1611, abs=5e-5)
    assert share(0, 0)["share"] is None
