"""Known crystals as arrangements: what the analogue generator learns from, and what it puts new elements into."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from voxtal.config import VoxelsConfig
from voxtal.models.tokens import MAX_ELEMENTS
from voxtal.representations.placement import place_all
from voxtal.representations.ragged import entries_of, offsets_of
from voxtal.structures.environments import FEATURES, environments
from voxtal.structures.structure_set import StructureSet


@dataclass(frozen=True)
class Arrangements:
    """Crystals (n) of at most :data:`MAX_ELEMENTS` elements, with m elements and a atoms altogether.

    Attributes
    ----------
    offsets, numbers, counts
        (n + 1,) where the elements of each crystal begin; (m,) atomic numbers, rising, and their atoms.
    pairs
        (sum of squared numbers of elements, 2): :func:`~voxtal.structures.environments.environments` of each crystal.
    positions
        (a, 3) float32 angstrom from the middle of the box, element by element.
    cells
        (n, 3, 3) float32.
    values
        (n, properties), NaN where unknown.
    """

    offsets: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    pairs: np.ndarray
    positions: np.ndarray
    cells: np.ndarray
    values: np.ndarray

    @classmethod
    def of(
        cls, structures: StructureSet, wanted: np.ndarray, voxels: VoxelsConfig, properties: Mapping[str, np.ndarray]
    ) -> Arrangements:
        """Those structures that are ``wanted`` (n,), placed as in voxels; ``properties`` have a value for each."""
        middle = voxels.box_angstrom / 2
        placed = place_all(
            structures.offsets, structures.frac_coords, structures.cells, voxels.box_angstrom, voxels.placement
        )
        rows, sizes, parts = [], [], []
        for row in np.flatnonzero(wanted & (placed.reasons == "")).tolist():
            numbers, frac_coords, cell = structures.arrays(row)
            elements, counts = np.unique(numbers, return_counts=True)
            if len(elements) > MAX_ELEMENTS:
                continue
            own = slice(structures.offsets[row], structures.offsets[row + 1])
            positions = placed.positions[own][np.argsort(numbers, kind="stable")] - middle
            pairs = environments(numbers, frac_coords, cell).reshape(-1, FEATURES)
            rows.append(row)
            sizes.append(len(elements))
            parts.append((elements, counts, pairs, positions))
        numbers, counts, pairs, positions = (np.concatenate(part) for part in zip(*parts, strict=True))
        return cls(
            offsets_of(np.asarray(sizes)),
            numbers.astype(np.int64),
            counts.astype(np.int64),
            pairs,
            positions.astype(np.float32),
            placed.cells[rows].astype(np.float32),
            np.stack([values[rows] for values in properties.values()], axis=1).astype(np.float64),
        )

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def sizes(self) -> np.ndarray:
        """(n,) elements of each crystal."""
        return np.diff(self.offsets)

    @property
    def atoms(self) -> np.ndarray:
        """(n,) atoms of each crystal."""
        return np.add.reduceat(self.counts, self.offsets[:-1])

    @property
    def volumes(self) -> np.ndarray:
        """(n,) of an atom, cubic angstrom."""
        return np.abs(np.linalg.det(self.cells.astype(np.float64))) / self.atoms

    def batch(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers (b, k), counts (b, k) and pairs (b, k, k, 2) of some crystals, padded with zeros to k elements."""
        sizes = self.sizes[rows]
        there = np.arange(k) < sizes[:, None]
        numbers, counts = np.zeros((2, len(rows), k), dtype=np.int64)
        tokens = entries_of(self.offsets, rows)
        numbers[there], counts[there] = self.numbers[tokens], self.counts[tokens]
        pairs = np.zeros((len(rows), k, k, FEATURES), dtype=np.float32)
        pairs[there[:, :, None] & there[:, None]] = self.pairs[entries_of(self._pair_offsets, rows)]
        return numbers, counts, pairs

    def prototypes(self) -> np.ndarray:
        """(n,) number of each crystal's prototype: atoms of each element and how they stand, roughly."""
        return _kinds(self._prototype(row) for row in range(len(self)))

    def systems(self) -> np.ndarray:
        """(n,) number of each crystal's chemical system."""
        return _kinds(tuple(self.numbers[first:end].tolist()) for first, end in pairwise(self.offsets))

    def _prototype(self, row: int) -> tuple[tuple[float, ...], ...]:
        counts = self.counts[self.offsets[row] : self.offsets[row + 1]]
        first, last = self._pair_offsets[row : row + 2]
        pairs = self.pairs[first:last].reshape(len(counts), len(counts), FEATURES)
        own, near = np.diagonal(pairs[..., 0]), pairs[..., 1].sum(axis=1)
        return tuple(sorted(zip(counts.tolist(), own.round(1).tolist(), near.round(1).tolist(), strict=True)))

    def compositions(self) -> set[frozenset[tuple[int, int]]]:
        """What :func:`composition_of` makes of every crystal."""
        parts = (slice(first, end) for first, end in pairwise(self.offsets))
        return {composition_of(self.numbers[part], self.counts[part]) for part in parts}

    def atoms_of(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Positions (tokens, most, 3) of the atoms of every element of some crystals, zeros beyond them."""
        tokens = entries_of(self.offsets, rows)
        starts = offsets_of(self.counts)
        there = np.arange(most) < self.counts[tokens][:, None]
        positions = np.zeros((len(tokens), most, 3), dtype=np.float32)
        positions[there] = self.positions[entries_of(starts, tokens)]
        return positions

    @cached_property
    def _pair_offsets(self) -> np.ndarray:
        return offsets_of(self.sizes**2)

    def facts(self) -> dict[str, torch.Tensor]:
        """All of it as tensors, small ones of whole numbers, for a model's record."""
        small = {"offsets": np.int32, "numbers": np.uint8, "counts": np.uint8}
        return {
            name: torch.from_numpy(np.ascontiguousarray(values.astype(small.get(name, values.dtype))))
            for name, values in ((field.name, getattr(self, field.name)) for field in fields(self))
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Arrangements:
        """The inverse of :meth:`facts`."""
        wide = dict.fromkeys(("offsets", "numbers", "counts"), np.int64)
        arrays = {name: facts[name].numpy() for name in cls.__dataclass_fields__}
        return cls(**{name: values.astype(wide.get(name, values.dtype)) for name, values in arrays.items()})


def _kinds(keys: Iterable[Hashable]) -> np.ndarray:
    """Numbers (n,) of n keys, equal ones of equal number."""
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.int64)


def composition_of(numbers: np.ndarray, counts: np.ndarray) -> frozenset[tuple[int, int]]:
    """The reduced composition of atomic numbers (k,) and their atoms (k,)."""
    unit = np.gcd.reduce(counts)
    return frozenset(zip(numbers.tolist(), (counts // unit).tolist(), strict=True))
