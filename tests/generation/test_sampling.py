"""Attempts are numbered: what comes out of one depends on the seed and its number alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxtal.generation.sampling import noise_of, predicted, sample_graphs
from voxtal.models.build import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["laptop", "paper"])
def generator(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return build(f"{request.param}-generator", side=16, width=8, noise=5).eval()


@given(order=st.permutations(range(6)), cut=st.integers(0, 6), seed=st.integers(0, 3))
def test_noise_belongs_to_the_attempt(order: list[int], cut: int, seed: int) -> None:
    """Blocks of another size or order must hold the same attempts."""
    whole = noise_of(seed, np.arange(6), 5)
    assert whole.shape == (6, 5)
    parts = [noise_of(seed, np.asarray(part, dtype=int), 5) for part in (order[:cut], order[cut:])]
    assert np.array_equal(np.concatenate(parts), whole[order])


def test_attempts_and_seeds_differ() -> None:
    """The same structure over and over."""
    noise = np.concatenate([noise_of(seed, np.arange(50), 4) for seed in (0, 1)])
    assert len(np.unique(noise, axis=0)) == 100
    assert abs(noise.mean()) < 0.2
    assert abs(noise.std() - 1) < 0.2


def test_graphs_belong_to_the_attempt(generator: Any) -> None:
    """A generator left in training mode normalises each attempt by the others of its batch."""
    attempts = np.arange(10)
    whole = sample_graphs(generator, 7, attempts, CPU)
    alone = [sample_graphs(generator, 7, attempts[i : i + 1], CPU)[0] for i in range(10)]
    assert whole.shape == (10, 16, 16)
    assert np.allclose(whole, alone, atol=1e-6)
    assert not np.allclose(whole, sample_graphs(generator, 8, attempts, CPU), atol=1e-3)


def test_no_attempts_are_no_graphs(generator: Any) -> None:
    """A round of which nothing passes asks for the graphs of none."""
    assert sample_graphs(generator, 7, np.array([], dtype=int), CPU).shape == (0, 16, 16)


def test_predictions_are_each_constraints_own() -> None:
    """A prediction of another graph or property, or with dropout in it; none are asked for where nothing passed."""
    torch.manual_seed(0)
    sizes = {"elements": [29, 79], "lattice_latent": 16, "sites_latent": 120, "threshold": 0.1, "width": 4}
    constraints = {name: build("laptop-constraint", **sizes).eval() for name in ("energy", "gap")}
    graphs = np.random.default_rng(0).random((5, 16, 16), dtype=np.float32)
    columns = predicted(constraints, graphs, CPU)
    for name, constraint in constraints.items():
        assert columns[name].shape == (5,)
        assert np.allclose(columns[name][2], predicted({"": constraint}, graphs[2:3], CPU)[""], atol=1e-6)
        assert predicted(constraints, graphs[:0], CPU)[name].shape == (0,)
    assert not np.allclose(columns["energy"], columns["gap"])
