"""What the token generator learns from: codes of crystals as tokens, their atom counts, and their properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from voxtal.data.graphs import GraphSet
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.representations.ragged import entries_of, offsets_of
from voxtal.structures.structure_set import StructureSet
from voxtal.units import ATOMIC_NUMBERS


@dataclass(frozen=True)
class TokenData:
    """Crystals (n) of at most :data:`MAX_ELEMENTS` elements.

    Attributes
    ----------
    lattice
        (n, lattice_latent) codes of the cells.
    offsets, numbers, counts, sites
        (n + 1,) where each crystal's tokens begin; (m,) atomic numbers and atoms, (m, sites_latent) codes.
    values
        (n, properties), NaN where unknown.
    """

    lattice: np.ndarray
    offsets: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    sites: np.ndarray
    values: np.ndarray

    @classmethod
    def of(
        cls, graphs: GraphSet, structures: StructureSet, wanted: np.ndarray, properties: Mapping[str, np.ndarray]
    ) -> TokenData:
        """Those of ``graphs`` that are ``wanted`` (n,); ``properties`` have a value for each graph."""
        sizes = np.diff(graphs.offsets)
        rows = np.flatnonzero(wanted & (sizes > 0) & (sizes <= MAX_ELEMENTS))
        tokens = entries_of(graphs.offsets, rows)
        owner = np.repeat(rows, sizes[rows])
        numbers = graphs.numbers[tokens].astype(np.int64)
        return cls(
            graphs.lattice[rows],
            offsets_of(sizes[rows]),
            numbers,
            _counts(structures, graphs.rows[owner], numbers),
            graphs.sites[tokens],
            np.stack([values[rows] for values in properties.values()], axis=1).astype(np.float64),
        )

    def __len__(self) -> int:
        return len(self.lattice)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(n,) elements of each crystal."""
        return np.diff(self.offsets)

    def elements(self, rows: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and counts (b, tokens) of some crystals, padded with zeros."""
        there, token = self._tokens(rows, tokens)
        return self.numbers[token] * there, self.counts[token] * there

    def codes(self, rows: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes (b, lattice_latent) of cells and (b, tokens, sites_latent) of elements, padded with zeros."""
        there, token = self._tokens(rows, tokens)
        return self.lattice[rows], self.sites[token] * there[..., None]

    def _tokens(self, rows: np.ndarray, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        place = np.arange(tokens)
        there = place < self.sizes[rows][:, None]
        return there, np.where(there, self.offsets[rows][:, None] + place, 0)


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation (properties,) of each property over the values that are known."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Standard:
        known = np.isfinite(values)
        n = np.maximum(known.sum(0), 1)
        mean = np.where(known, values, 0).sum(0) / n
        deviation = np.sqrt((np.where(known, values - mean, 0) ** 2).sum(0) / n)
        return cls(mean, np.where(deviation > 1e-9, deviation, 1.0))

    def condition(self, values: np.ndarray) -> np.ndarray:
        """(n, 2 x properties) float32 of values (n, properties): standardised, 0 where unknown; then 1 where known."""
        known = np.isfinite(values)
        standard = np.where(known, values - self.mean, 0.0) / self.deviation
        return np.concatenate([standard, known], axis=1).astype(np.float32)


def _counts(structures: StructureSet, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """(m,) atoms of the element ``numbers[j]`` in the structure ``rows[j]``."""
    table = np.zeros((len(structures), ATOMIC_NUMBERS), dtype=np.int64)
    np.add.at(table, (np.repeat(np.arange(len(structures)), np.diff(structures.offsets)), structures.numbers), 1)
    return table[rows, numbers]
