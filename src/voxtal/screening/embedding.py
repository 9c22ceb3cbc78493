"""t-SNE: points of many dimensions in a plane, near ones near each other (L. van der Maaten and G. Hinton, J. Mach.
Learn. Res. 9, 2579 (2008))."""

from __future__ import annotations

import numpy as np

STEPS = 500
EXAGGERATED = 100
EXAGGERATION = 12.0
"""Of the attraction in the first steps, in which clusters form."""
MOST_POINTS = 3000
"""More take minutes: every step is over all pairs."""

_BISECTIONS = 50
_SPREAD = 1e-4
"""Standard deviation of the first placement, along the principal axis."""


def tsne(points: np.ndarray, perplexity: float = 30.0, steps: int = STEPS) -> np.ndarray:
    """Places (n, 2) of ``points`` (n, d), from 3 to :data:`MOST_POINTS`; the same for the same points.

    Exact, without a tree: ten seconds for 1,500 points. It starts from the principal components, so that large
    distances mean something, with a rate that grows with n (D. Kobak and P. Berens, Nat. Commun. 10, 5416 (2019)).
    """
    n = len(points)
    assert 3 <= n <= MOST_POINTS
    attraction = joint_probabilities(points, min(perplexity, (n - 1) / 3)).astype(np.float32)
    places = principal_components(points, 2)
    places = (places * (_SPREAD / max(places[:, 0].std(), 1e-12))).astype(np.float32)
    rate, change, gains = max(n / EXAGGERATION, 50.0), np.zeros_like(places), np.ones_like(places)
    for step in range(steps):
        factor = EXAGGERATION if step < EXAGGERATED else 1.0
        slope = gradient(places, attraction * np.float32(factor))
        gains = np.clip(np.where(slope * change < 0, gains + 0.2, gains * 0.8), 0.01, None)
        change = (0.5 if step < EXAGGERATED else 0.8) * change - rate * gains * slope
        places = (places + change).astype(np.float32)
        places -= places.mean(axis=0)
    return places.astype(np.float64)


def principal_components(points: np.ndarray, n: int) -> np.ndarray:
    """(points, n) coordinates along the ``n`` axes of the largest spread; the sign is that of the largest entry."""
    centred = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    found = left[:, :n] * values[:n]
    found = np.pad(found, ((0, 0), (0, n - found.shape[1])))
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)
    return found * np.where(largest < 0, -1.0, 1.0)


def joint_probabilities(points: np.ndarray, perplexity: float) -> np.ndarray:
    """Symmetric p (n, n), which sums to 1, of :func:`conditional_probabilities`."""
    conditional = conditional_probabilities(points, perplexity)
    return np.maximum((conditional + conditional.T) / (2 * len(points)), 1e-12)


def conditional_probabilities(points: np.ndarray, perplexity: float) -> np.ndarray:
    """p (n, n) of Gaussians around each point, each so wide that its row has the ``perplexity``."""
    squared = _squared_distances(np.asarray(points, dtype=np.float64))
    np.fill_diagonal(squared, np.inf)
    squared -= squared.min(axis=1, keepdims=True)  # only differences count, and exponentials stay in range
    finite = np.where(np.isfinite(squared), squared, 0.0)
    scale = np.maximum(finite.mean(axis=1, keepdims=True), 1e-300)
    squared, finite = squared / scale, finite / scale
    precision, low, high = np.ones(len(points)), np.zeros(len(points)), np.full(len(points), np.inf)
    for _ in range(_BISECTIONS):
        weights = np.exp(-squared * precision[:, None])
        total = weights.sum(axis=1)
        entropy = np.log(total) + precision * (finite * weights).sum(axis=1) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, precision, low), np.where(wide, high, precision)
        open_ended = np.isinf(high)
        precision = np.where(open_ended, 2 * precision, (low + np.where(open_ended, 0, high)) / 2)
    return np.asarray(weights / total[:, None])


def gradient(places: np.ndarray, attraction: np.ndarray) -> np.ndarray:
    """Slope (n, 2) of the Kullback-Leibler divergence of the places' Student-t probabilities from ``attraction``."""
    closeness = 1 / (1 + _squared_distances(places))
    np.fill_diagonal(closeness, 0)
    force = (attraction - closeness / closeness.sum()) * closeness
    return 4 * (force.sum(axis=1)[:, None] * places - force @ places)


def _squared_distances(points: np.ndarray) -> np.ndarray:
    lengths = np.einsum("ij,ij->i", points, points)
    return np.maximum(lengths[:, None] + lengths[None] - 2 * points @ points.T, 0)
