"""Density maps to train on: each structure as it is and in random quarter turns, all in the split of the structure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from voxtal.data.batches import coordinates
from voxtal.data.dataset import DensityDataset
from voxtal.representations.density import Crystal
from voxtal.representations.rotations import IDENTITY, Rotation, random_rotations


@dataclass(frozen=True)
class MapBatch:
    """Maps of a batch.

    Attributes
    ----------
    rows
        (b,) structures of the data set.
    maps
        (b, 4, N, N, N) float32: density map and coordinate grid, what UNet and VAE take.
    species
        (b, N, N, N) int64 atomic numbers, 0 where there is no ion.
    """

    rows: np.ndarray
    maps: Tensor
    species: Tensor


@dataclass(frozen=True)
class TurnedMaps:
    """``rows`` of a data set, each followed by ``rotations`` of its turns.

    The turns of a structure depend on ``seed`` and its row in the structure set alone.
    """

    dataset: DensityDataset
    rows: np.ndarray
    rotations: int
    seed: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows) * (self.rotations + 1)

    def batch(self, chosen: np.ndarray) -> MapBatch:
        """The maps at ``chosen`` (b,), each below ``len(self)``."""
        rows, rotations = self._located(chosen)
        read = self.dataset.maps(rows, rotations)
        density = torch.from_numpy(read.density).to(self.device)
        maps = torch.cat([density[:, None], coordinates(read, self.device)], dim=1)
        return MapBatch(rows, maps, torch.from_numpy(read.species).to(self.device).long())

    def atom_counts(self) -> np.ndarray:
        """(len(self),) atoms that each map shows."""
        return np.repeat(self.dataset.atom_counts(self.rows), self.rotations + 1)

    def crystals(self, chosen: np.ndarray) -> tuple[np.ndarray, list[Crystal]]:
        """Structures (b,) of the data set at ``chosen`` (b,), and what their maps show."""
        rows, rotations = self._located(chosen)
        return rows, [_turned(c, r) for c, r in zip(self.dataset.crystals(rows), rotations, strict=True)]

    def _located(self, chosen: np.ndarray) -> tuple[np.ndarray, list[Rotation]]:
        place, turn = np.divmod(chosen, self.rotations + 1)
        rows = self.rows[place]
        turns = zip(self.dataset.rows[rows], turn.tolist(), strict=True)
        return rows, [self._rotation(int(row), k) for row, k in turns]

    def _rotation(self, row: int, turn: int) -> Rotation:
        return _turns(self.seed, row, self.rotations)[turn - 1] if turn else IDENTITY


def _turned(crystal: Crystal, rotation: Rotation) -> Crystal:
    """The crystal that the turned maps show. Their coordinates keep their values, so an axis that is reversed is the
    negative vector."""
    numbers, frac, cell = crystal
    axes, flips = list(rotation.axes), list(rotation.flips)
    frac, cell = frac[:, axes], cell[axes]
    frac[:, flips] = 1 - frac[:, flips]
    cell[flips] *= -1
    return numbers, frac, cell


@cache
def _turns(seed: int, row: int, n: int) -> list[Rotation]:
    return random_rotations(seed, row, n)
