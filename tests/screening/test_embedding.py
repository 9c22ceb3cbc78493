"""t-SNE: its probabilities, its slope, and whether what belongs together ends up together."""

from __future__ import annotations

import numpy as np
import pytest

from voxtal.screening.embedding import (
    conditional_probabilities,
    gradient,
    joint_probabilities,
    principal_components,
    tsne,
)

RNG = np.random.default_rng(0)


def test_probabilities_have_the_perplexity() -> None:
    """Widths that do not follow the density of points would tear sparse clusters apart."""
    points = np.concatenate([RNG.normal(size=(40, 5)), 20 + 5 * RNG.normal(size=(40, 5))])
    each = conditional_probabilities(points, 12.0)
    assert np.exp(-(each * np.log(each + 1e-300)).sum(axis=1)) == pytest.approx(np.full(80, 12.0), rel=1e-6)
    joint = joint_probabilities(points, 12.0)
    assert joint.sum() == pytest.approx(1)
    assert np.array_equal(joint, joint.T)
    assert joint[:40, 40:].sum() < 1e-3


def test_slope_is_that_of_the_divergence() -> None:
    """By differences: a wrong sign or factor would still give some picture."""
    attraction = joint_probabilities(RNG.normal(size=(12, 4)), 3.0)
    places = RNG.normal(size=(12, 2))

    def divergence(y: np.ndarray) -> float:
        closeness = 1 / (1 + ((y[:, None] - y[None]) ** 2).sum(-1))
        np.fill_diagonal(closeness, 0)
        q = closeness / closeness.sum()
        off = ~np.eye(12, dtype=bool)
        return float((attraction[off] * np.log(attraction[off] / q[off])).sum())

    slope, step = gradient(places, attraction), 1e-5
    for i, k in ((0, 0), (5, 1), (11, 0)):
        moved = np.zeros_like(places)
        moved[i, k] = step
        by_difference = (divergence(places + moved) - divergence(places - moved)) / (2 * step)
        assert slope[i, k] == pytest.approx(by_difference, rel=1e-3, abs=1e-7)


def test_clusters_stay_together() -> None:
    """Three clouds in twenty dimensions: nearly every point's nearest neighbour is of its own."""
    centres = 6 * RNG.normal(size=(3, 20))
    kinds = np.repeat([0, 1, 2], 40)
    points = centres[kinds] + RNG.normal(size=(120, 20))
    places = tsne(points)
    squared = ((places[:, None] - places[None]) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    assert (kinds[squared.argmin(axis=1)] == kinds).mean() > 0.97
    assert np.isfinite(places).all()
    assert np.array_equal(places, tsne(points))


@pytest.mark.parametrize("n", [3, 7])
def test_few_points(n: int) -> None:
    """Less than a perplexity of them, or all of them equal, must not end in NaN."""
    assert np.isfinite(tsne(RNG.normal(size=(n, 4)))).all()
    assert np.isfinite(tsne(np.ones((n, 4)))).all()


def test_principal_components() -> None:
    """The axis of the largest spread first, the sign settled: other machines would draw mirror images."""
    points = RNG.normal(size=(200, 3)) * [1, 5, 0.1]
    found = principal_components(points, 2)
    centred = points - points.mean(axis=0)
    assert abs(np.corrcoef(found[:, 0], centred[:, 1])[0, 1]) > 0.99
    assert np.allclose(found, principal_components(points + 7, 2))
    assert found[np.abs(found[:, 0]).argmax(), 0] > 0
    assert principal_components(points[:, :1], 2).shape == (200, 2)
