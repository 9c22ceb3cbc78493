"""Properties as a condition of a generator: one-hot deciles, as ICSG3D has them, or the numbers themselves.

Edges, means and deviations are those of the training structures alone, and are kept with the network that was trained
with them, so that a value asked for later is put where it was in training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DECILES = 10


def deciles(values: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Inner edges (9,) of the deciles of a property over the structures that are trained on.

    Parameters
    ----------
    values
        (n,) of all structures; those that are not finite are passed over.
    training
        (n,) bool, or the rows that are trained on. No other value is looked at.
    """
    known = np.asarray(values, dtype=np.float64)[training]
    known = known[np.isfinite(known)]
    assert len(known), "no training structure has the property"
    return np.quantile(known, np.arange(1, DECILES) / DECILES)


def decile_of(values: np.ndarray | float, edges: np.ndarray) -> np.ndarray:
    """Decile (n,) int, 0 to 9, of finite ``values`` (n,).

    A value on an edge belongs to the lower one, as in pandas' qcut, and one beyond all edges to the outermost.
    """
    assert np.isfinite(values).all(), "a value that is not finite has no decile"
    return np.searchsorted(edges, values, side="left")


@dataclass(frozen=True)
class Condition:
    """How the values of some properties become a network's condition.

    Attributes
    ----------
    properties
        Names of numeric columns.
    edges
        (properties, 9): deciles; None for a continuous condition.
    mean, scale
        (properties,) of the training values.
    """

    properties: tuple[str, ...]
    edges: np.ndarray | None
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, values: Mapping[str, np.ndarray], training: np.ndarray, continuous: bool) -> Condition:
        """From columns (n,) and the rows, or (n,) bool, that are trained on."""
        known = np.stack([np.asarray(column, dtype=np.float64)[training] for column in values.values()])
        edges = None if continuous else np.stack([deciles(column, training) for column in values.values()])
        return cls(tuple(values), edges, np.nanmean(known, axis=1), np.maximum(np.nanstd(known, axis=1), 1e-6))

    @property
    def width(self) -> int:
        """Numbers of an encoded condition."""
        return len(self.properties) * (1 if self.edges is None else DECILES)

    def encode(self, values: Mapping[str, np.ndarray | Sequence[float]]) -> np.ndarray:
        """Condition vectors (n, width) float32 of finite columns (n,): the one-hot deciles of each property in turn, or
        its distance from the training mean in standard deviations."""
        columns = [np.asarray(values[name], dtype=np.float64) for name in self.properties]
        if self.edges is None:
            scaled = [(column - m) / s for column, m, s in zip(columns, self.mean, self.scale, strict=True)]
            return np.stack(scaled, axis=1).astype(np.float32)
        one_hot = np.eye(DECILES, dtype=np.float32)
        return np.concatenate(
            [one_hot[decile_of(column, edges)] for column, edges in zip(columns, self.edges, strict=True)], axis=1
        )

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        """Condition vectors (n, width) float32 of what :meth:`numbers` gives (n, properties)."""
        if self.edges is None:
            return numbers.astype(np.float32)
        return np.eye(DECILES, dtype=np.float32)[numbers.astype(np.int64)].reshape(len(numbers), self.width)

    def told(self, vectors: np.ndarray) -> dict[str, np.ndarray]:
        """What condition vectors (n, width) say of each property, (n,): its decile, 0 to 9, or the value itself."""
        columns = self.numbers(vectors)
        if self.edges is None:
            columns = columns * self.scale + self.mean
        return dict(zip(self.properties, columns.T, strict=True))

    def numbers(self, vectors: np.ndarray) -> np.ndarray:
        """(n, properties) of condition vectors (n, width): the decile of each property, 0 to 9, or its distance from
        the training mean in standard deviations."""
        if self.edges is None:
            return np.asarray(vectors, dtype=np.float64)
        return vectors.reshape(len(vectors), len(self.properties), DECILES).argmax(axis=2).astype(np.float64)

    def facts(self) -> dict[str, Any]:
        """Plain values that :meth:`from_facts` takes, for a file."""
        return {
            "properties": list(self.properties),
            "edges": None if self.edges is None else self.edges.tolist(),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Condition:
        edges = facts["edges"]
        return cls(
            tuple(facts["properties"]),
            None if edges is None else np.asarray(edges),
            np.asarray(facts["mean"]),
            np.asarray(facts["scale"]),
        )
