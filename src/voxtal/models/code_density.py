"""Where the codes of crystals of some condition lie: what a random attempt with that condition is drawn from.

The codes of all crystals together are nearly N(0, 1), those of one condition are not: a code tells what it is the code
of, with most of its properties, and a decoder believes the code more than the condition. N(0, 1) under any condition
thus gives crystals of every condition. Fitted after the training, as in P. Ghosh et al., arXiv:1903.12436.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from voxtal.structures.conditions import Condition

_NEAR_DECILES, _NEAR_DEVIATIONS = 0.5, 0.25
"""How far apart conditions are that count as nearly the same."""

_REMEMBERED = 128
"""Gaussians that are kept: 32 kB each."""

_ARRAYS = ("conditions", "means", "variances")


@dataclass(frozen=True)
class CodeDensity:
    """Gaussians of codes, one for each condition, from the codes of crystals with nearly that condition.

    Attributes
    ----------
    near
        How far apart conditions are that count as nearly the same.
    conditions
        (n, properties) of the crystals, as :meth:`voxtal.structures.conditions.Condition.numbers`.
    means, variances
        (n, latent) of the crystals' codes.
    """

    near: float
    conditions: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, condition: Condition, vectors: np.ndarray, means: np.ndarray, variances: np.ndarray) -> CodeDensity:
        """From the condition vectors (n, width) of crystals and their codes' Gaussians."""
        near = _NEAR_DEVIATIONS if condition.edges is None else _NEAR_DECILES
        return cls(near, condition.numbers(vectors), means, variances)

    def gaussian(self, condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (latent,) and lower Cholesky factor (latent, latent) of the covariance of codes, for a ``condition``
        (properties,); of the nearest crystals where none is near.

        The covariance is drawn towards that of all codes, as if of as many crystals as a code has numbers.
        """
        return self._remembered(tuple(condition.tolist()))

    def draw(self, noise: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Codes (m, latent) float32 of normal ``noise`` (m, latent), under ``conditions`` (m, properties)."""
        codes = np.empty(noise.shape, dtype=np.float32)
        kinds, kind = np.unique(conditions, axis=0, return_inverse=True)
        for k, condition in enumerate(kinds):
            mean, factor = self.gaussian(condition)
            codes[kind == k] = mean + noise[kind == k] @ factor.T
        return codes

    def facts(self) -> dict[str, Any]:
        """What :meth:`from_facts` takes, for a file."""
        arrays = {name: torch.from_numpy(getattr(self, name).astype(np.float32)) for name in _ARRAYS}
        return {"near": self.near, **arrays}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> CodeDensity:
        return cls(facts["near"], **{name: facts[name].numpy().astype(np.float64) for name in _ARRAYS})

    @cached_property
    def _remembered(self) -> Callable[[tuple[float, ...]], tuple[np.ndarray, np.ndarray]]:
        """Every block asks for the same deciles again; values differ from attempt to attempt, and are not all kept."""
        return lru_cache(maxsize=_REMEMBERED)(self._fitted)

    def _fitted(self, condition: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        squared = np.square((self.conditions - condition) / self.near).sum(1)
        weights = np.exp(-0.5 * (squared - squared.min()))
        weights /= weights.sum()
        n, latent = 1 / np.square(weights).sum(), self.means.shape[1]
        covariance = (n * self._covariance(weights) + latent * self._overall) / (n + latent)
        return weights @ self.means, np.linalg.cholesky(covariance)

    @cached_property
    def _overall(self) -> np.ndarray:
        return self._covariance(np.full(len(self.means), 1 / len(self.means)))

    def _covariance(self, weights: np.ndarray) -> np.ndarray:
        """Of codes that are drawn from the crystals' own Gaussians, each as often as it weighs."""
        apart = self.means - weights @ self.means
        return (apart * weights[:, None]).T @ apart + np.diag(weights @ self.variances)
