"""Atom graphs as tensors: atoms, and an edge from each to its neighbours. Batches are gathered without a loop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from voxtal.representations.neighbours import Neighbours, neighbours
from voxtal.structures.structure_set import StructureSet


@dataclass(frozen=True)
class AtomGraph:
    """Atom graphs of a batch of crystals, as one graph that falls into parts.

    Attributes
    ----------
    numbers
        (atoms,) int64 atomic numbers.
    crystal
        (atoms,) int64: which crystal of the batch an atom belongs to, rising.
    sizes
        (batch,) int64: number of atoms of each crystal.
    centres, others
        (edges,) int64: an atom, rising, and its neighbour.
    distances
        (edges,) angstrom.
    weights
        (edges,) how much the neighbour counts.
    """

    numbers: Tensor
    crystal: Tensor
    sizes: Tensor
    centres: Tensor
    others: Tensor
    distances: Tensor
    weights: Tensor

    def mean(self, x: Tensor) -> Tensor:
        """Mean (batch, features) over the atoms of each crystal of ``x`` (atoms, features)."""
        total = x.new_zeros(len(self.sizes), x.shape[1]).index_add(0, self.crystal, x)
        return total / self.sizes[:, None]

    def gathered(self, messages: Tensor) -> Tensor:
        """Sum (atoms, features) of what neighbours send, ``messages`` (edges, features)."""
        return messages.new_zeros(len(self.numbers), messages.shape[1]).index_add(0, self.centres, messages)


class AtomGraphs:
    """Atom graphs of n crystals on a device.

    Parameters
    ----------
    numbers
        (atoms,) atomic numbers of all crystals.
    """

    def __init__(self, numbers: np.ndarray, neighbours: Neighbours, device: torch.device | str) -> None:
        def there(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array, device=device)

        self.numbers = there(numbers).long()
        self.offsets, self.starts = there(neighbours.offsets), there(neighbours.starts)
        self.others = there(neighbours.atoms)
        self.distances, self.weights = there(neighbours.distances), there(neighbours.weights)
        self.device = self.offsets.device

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_edges(self) -> Tensor:
        """(n,) of each crystal."""
        return self.starts[self.offsets].diff()

    def batch(self, rows: Tensor) -> AtomGraph:
        """The crystals at ``rows`` (batch,)."""
        rows = rows.to(self.device)
        atoms, crystal, sizes = _entries(self.offsets, rows)
        edges, centres, _ = _entries(self.starts, atoms)
        first = (sizes.cumsum(0) - sizes)[crystal]
        return AtomGraph(
            self.numbers[atoms],
            crystal,
            sizes,
            centres,
            self.others[edges] + first[centres],
            self.distances[edges],
            self.weights[edges],
        )


def atom_graphs(structures: StructureSet, beyond: float, device: torch.device | str) -> AtomGraphs:
    """Atom graphs of valid crystals; ``beyond`` as :func:`~voxtal.representations.neighbours.neighbours` has it."""
    return AtomGraphs(structures.numbers, neighbours(structures, beyond=beyond), device)


def _entries(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places of all entries of ``rows``, in that order; which of the rows each belongs to; and how many a row has."""
    starts = offsets[rows]
    counts = offsets[rows + 1] - starts
    owner = torch.repeat_interleave(counts)
    shift = starts - (counts.cumsum(0) - counts)
    return torch.arange(len(owner), device=owner.device) + shift[owner], owner, counts
