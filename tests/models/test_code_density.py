"""Gaussians of codes, one for each condition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from voxtal.models.code_density import CodeDensity
from voxtal.structures.conditions import Condition

RNG = np.random.default_rng(0)
LATENT = 4
STRUCTURES = 5000


def density(continuous: bool, n: int = STRUCTURES) -> CodeDensity:
    """Codes whose first number says how large the property is, and whose second spreads with it."""
    values = RNG.uniform(0, 10, n)
    condition = Condition.of({"a": values}, np.arange(n), continuous)
    means = RNG.normal(size=(n, LATENT)) * 0.5
    means[:, 0] += values / 5 - 1
    means[:, 1] *= 1 + values
    return CodeDensity.of(condition, condition.encode({"a": values}), means, np.full((n, LATENT), 0.25))


@pytest.mark.parametrize("continuous", [False, True])
def test_codes_are_those_of_their_condition(continuous: bool) -> None:
    """Codes of N(0, 1) give crystals of every decile, whichever was asked for."""
    codes = density(continuous)
    noise = RNG.normal(size=(4000, LATENT))
    for decile, value in ((2, 2.5), (5, 5.5), (7, 7.5)):
        place = np.array([(value - 5) / 2.887 if continuous else decile])
        drawn = codes.draw(noise, np.repeat(place[None], len(noise), axis=0))
        assert drawn.dtype == np.float32
        assert drawn[:, 0].mean() == pytest.approx(value / 5 - 1, abs=0.15)
        assert drawn[:, 1].std() == pytest.approx(np.hypot(0.5 * (1 + value), 0.5), rel=0.15)
        assert drawn[:, 2].std() == pytest.approx(0.5**0.5, rel=0.1)


def test_a_condition_beyond_all_takes_the_nearest() -> None:
    """Weights that all vanish would be no numbers."""
    codes = density(True)
    mean, factor = codes.gaussian(np.array([60.0]))
    assert np.isfinite(factor).all()
    assert mean[0] > 0.5  # 0 is the mean of all, 1 that of the highest


def test_one_structure_is_enough() -> None:
    """A covariance of one sample has no Cholesky factor."""
    codes = density(False, 1)
    mean, factor = codes.gaussian(np.array([3.0]))
    assert mean == pytest.approx(codes.means[0])
    assert np.diag(factor) == pytest.approx(0.5)


def test_files_give_it_back() -> None:
    """Candidates would depend on whether the network was loaded."""
    codes = density(False, 200)
    again = CodeDensity.from_facts(codes.facts())
    assert all(isinstance(value, (float, torch.Tensor)) for value in codes.facts().values())
    noise, wanted = RNG.normal(size=(20, LATENT)), RNG.integers(10, size=(20, 1)).astype(float)
    assert again.draw(noise, wanted) == pytest.approx(codes.draw(noise, wanted), abs=1e-5)
