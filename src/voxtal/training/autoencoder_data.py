"""What autoencoders are to give back, and their loss on it: dense images, atoms, cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from voxtal.data.batches import densify, padded
from voxtal.data.dataset import VoxelDataset
from voxtal.models.atoms import atoms_loss, in_order
from voxtal.parallel.data_parallel import Share
from voxtal.training.device import Arithmetic
from voxtal.training.losses import squared_error, weighted_cross_entropy
from voxtal.training.other_cells import all_other_cells, atoms_in_other_cells, other_cells

_SHIFT_ANGSTROM = 0.3
"""Standard deviation of the shift of a whole image in training."""
_SMOOTH_ANGSTROM = 0.1
"""Below it a cell's error counts squared. Half of it makes Adam so uneasy that the order of sums changes the losses."""
OTHER_CELLS = 0.2
"""How many of the images are taken from another cell of the crystal: more cells are given back well, others as well."""

SIGNED_PERMUTATIONS = np.array(
    [np.diag(signs)[list(order)] for order in permutations(range(3)) for signs in product((-1, 1), repeat=3)],
    dtype=np.float32,
)
"""(48, 3, 3): the rotations and reflections of the box."""


class AutoencoderData(Protocol):
    """Rows that a network encodes and decodes."""

    def scale(self, network: Any, rows: np.ndarray) -> None:
        """Give a fresh network what it has to know of the rows that it will learn."""

    def loss(self, network: Any, chosen: np.ndarray, share: Share, noise: float, rng: np.random.Generator) -> Tensor:
        """Mean over the rank's share of the rows ``chosen``, with Gaussian noise of that deviation on the codes."""
        ...


def data_of(architecture: str, dataset: VoxelDataset, atoms: int, arithmetic: Arithmetic) -> AutoencoderData:
    """The images (sites) or structures (lattice) of a data set; ``atoms``: most of one element that there are."""
    device = arithmetic.device
    if architecture == "atoms-lattice-ae":
        return Cells(torch.from_numpy(dataset.cells(np.arange(dataset.n_structures))).to(device))
    if architecture == "atoms-sites-ae":
        batch = dataset.atoms(np.arange(dataset.n_images))
        positions, counts = padded(batch, atoms, dataset.settings.box_angstrom)
        numbers = dataset.image_numbers.astype(np.int64)
        cells = dataset.cells(np.arange(dataset.n_structures))[dataset.image_structure]
        facts = [torch.from_numpy(values).to(device) for values in (positions, counts, numbers, cells)]
        return Atoms(facts[0], facts[1], facts[2], facts[3])
    read = dataset.sites_sparse if architecture.endswith("sites-ae") else dataset.lattice_sparse
    return Images(lambda rows: densify(read(rows), device, torch.float32), architecture.startswith("paper"), arithmetic)


@dataclass(frozen=True)
class Images:
    """Dense images: ``read`` makes (len(rows), 1, G, G, G) of rows, on the device. ``published``: the paper's loss.

    Only convolutions are worth half precision, and coordinates would not bear it: the others are in float32.
    """

    read: Callable[[np.ndarray], Tensor]
    published: bool
    arithmetic: Arithmetic

    def scale(self, network: Any, rows: np.ndarray) -> None:
        pass

    def loss(self, network: Any, chosen: np.ndarray, share: Share, noise: float, rng: np.random.Generator) -> Tensor:
        images = self.read(share.of(chosen))
        with self.arithmetic.autocast():
            if self.published:
                return squared_error(network(images), images)
            return weighted_cross_entropy(network.decode_logits(_noisy(network.encode(images), noise, share)), images)


@dataclass(frozen=True)
class Atoms:
    """Atoms (n, atoms, 3; from the middle of the box, angstrom) of images, their counts and atomic numbers (n,), and
    the cells (n, 3, 3) that they repeat with.

    Every step turns, mirrors and shifts its images anew, and takes some of them from other cells.
    """

    positions: Tensor
    counts: Tensor
    numbers: Tensor
    cells: Tensor
    other_cells: float = OTHER_CELLS

    def scale(self, network: Any, rows: np.ndarray) -> None:
        pass

    def loss(self, network: Any, chosen: np.ndarray, share: Share, noise: float, rng: np.random.Generator) -> Tensor:
        turns = SIGNED_PERMUTATIONS[rng.integers(len(SIGNED_PERMUTATIONS), size=len(chosen))]
        shifts = rng.normal(scale=_SHIFT_ANGSTROM, size=(len(chosen), 1, 3)).astype(np.float32)
        rows = share.of(chosen)
        counts, numbers = self.counts[rows], self.numbers[rows]
        turn, shift = (torch.from_numpy(share.of(values)).to(counts.device) for values in (turns, shifts))
        positions = atoms_in_other_cells(self.positions[rows], counts, self.cells[rows], self.other_cells, share)
        positions = in_order(positions @ turn + shift, counts)
        codes = _noisy(network.encode(positions, counts, numbers), noise, share)
        return atoms_loss(network.decode(codes, numbers), positions, counts)


@dataclass(frozen=True)
class Cells:
    """Cells (n, 3, 3; rows, angstrom) in the standard orientation. Some get other edges in every step."""

    cells: Tensor
    other_cells: float = OTHER_CELLS

    def scale(self, network: Any, rows: np.ndarray) -> None:
        cells = self.cells[rows]
        network.set_scale((all_other_cells(cells) if self.other_cells else cells).cpu())

    def loss(self, network: Any, chosen: np.ndarray, share: Share, noise: float, rng: np.random.Generator) -> Tensor:
        cells = other_cells(self.cells[share.of(chosen)], self.other_cells, share)
        found = network.decode(_noisy(network.encode(cells), noise, share))
        return 6 * F.smooth_l1_loss(found, cells, beta=_SMOOTH_ANGSTROM)


def _noisy(codes: Tensor, noise: float, share: Share) -> Tensor:
    return codes + noise * share.randn(*codes.shape[1:], device=codes.device)
