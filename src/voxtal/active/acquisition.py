"""Which candidates to label: good predictions, far from each other. Pure."""

from __future__ import annotations

import numpy as np


def select_candidates(scores: np.ndarray, features: np.ndarray, n: int, diversity: float) -> np.ndarray:
    """Indices (at most ``n``) of the chosen candidates, best first.

    Greedy: the lowest score first, then whatever has the best weighted mean of its rank by score and its rank
    by distance to those already chosen.

    Parameters
    ----------
    scores
        (m,) of the predicted properties against what is asked of them; lower is better.
    features
        (m, d) latent vectors whose Euclidean distance tells candidates apart.
    diversity
        Weight of distance against score, from 0 to 1.
    """
    m = len(scores)
    chosen: list[int] = []
    by_score = _ranks(scores)
    nearest = np.full(m, np.inf)
    free = np.ones(m, dtype=bool)
    while free.any() and len(chosen) < n:
        score = by_score.astype(float)
        if chosen:
            score = (1 - diversity) * by_score + diversity * _ranks(-nearest)
        best = int(np.argmin(np.where(free, score, np.inf)))
        chosen.append(best)
        free[best] = False
        nearest = np.minimum(nearest, np.linalg.norm(features - features[best], axis=1))
    return np.asarray(chosen, dtype=np.int64)


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks
