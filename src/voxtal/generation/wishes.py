"""Which known crystal an attempt is to be like: drawn so that those that the objectives like better come more often."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from voxtal.config import ObjectiveConfig
from voxtal.training.objectives import scores

_GOLDEN_RATIO = (5**0.5 - 1) / 2


def likelihood(values: np.ndarray, properties: Sequence[str], objectives: Sequence[ObjectiveConfig]) -> np.ndarray:
    """Probability (n,) of each crystal: proportional to exp(-the sum of eq. 2's weighted terms), zero where unknown.

    Crystals without a property that has a weight are never drawn, nor those of which nothing is known, if there are
    others. Where nothing has a weight, all are equally likely.

    Parameters
    ----------
    values
        (n, properties), NaN where unknown.
    """
    columns = {name: values[:, i] for i, name in enumerate(properties)}
    steered = [objective for objective in objectives if objective.weight]
    cost = scores(steered, columns) if steered else np.zeros(len(values))
    cost = np.where(np.isfinite(values).any(axis=1), cost, np.nan)
    if not np.isfinite(cost).any():
        return np.full(len(values), 1 / max(1, len(values)))
    likely = np.exp(-(cost - np.nanmin(cost)))
    likely = np.nan_to_num(likely, nan=0.0)
    return likely / likely.sum()


def drawn_rows(likely: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Rows (m,) for numbers (m,) in [0, 1): the first whose cumulative probability exceeds the number."""
    cumulative = np.cumsum(likely)
    return np.searchsorted(cumulative, chance * cumulative[-1], side="right").clip(max=np.flatnonzero(likely)[-1])


def evenly_drawn_rows(likely: np.ndarray, kinds: np.ndarray, attempts: np.ndarray, seed: int) -> np.ndarray:
    """Rows (m,) for numbered attempts (m,), as often as they are likely but more evenly than by chance.

    Multiples of the golden ratio fill [0, 1) with fewer gaps and heaps than random numbers: many attempts are like one
    row, or like rows of one kind, only once all others have had their turn.

    Parameters
    ----------
    kinds
        (n,) number of each row's kind.
    seed
        Of the first number.
    """
    order = np.argsort(kinds, kind="stable")
    first = np.random.default_rng([seed, 6]).random()
    return order[drawn_rows(likely[order], (first + attempts * _GOLDEN_RATIO) % 1)]
