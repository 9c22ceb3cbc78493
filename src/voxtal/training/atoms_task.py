"""Training of the autoencoders of what voxels show: the atoms of one element, or a cell."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voxtal.config import AutoencoderConfig
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, atoms_loss, in_order
from voxtal.models.build import build, record
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import batch_rows, cosine_rate, descend

CODE_NOISE = {"atoms-sites-ae": 0.1, "atoms-lattice-ae": 0.02}
"""Standard deviation of the noise on codes in training: decoding then forgives a generator's small errors."""
_SHIFT_ANGSTROM = 0.3
"""Standard deviation of the shift of a whole image in training."""
_WEIGHT_DECAY = 0.01

SIGNED_PERMUTATIONS = np.array(
    [np.diag(signs)[list(order)] for order in permutations(range(3)) for signs in product((-1, 1), repeat=3)],
    dtype=np.float32,
)
"""(48, 3, 3): the rotations and reflections of the box."""


class _DenseTask:
    """What both have in common: one network, its optimizer, and the learning rate's way down."""

    network: nn.Module

    def __init__(
        self,
        architecture: str,
        sizes: dict[str, int],
        config: AutoencoderConfig,
        steps: int,
        rows: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        start: Mapping[str, Tensor] | None,
    ) -> None:
        self.architecture, self.sizes = architecture, sizes
        torch.manual_seed(seed)
        network = build(architecture, **sizes)
        if start is not None:
            network.load_state_dict(start)
        self.network = arithmetic.place(network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.config, self.steps, self.rows, self.parallel, self.seed = config, steps, rows, parallel, seed

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = self.rows[batch_rows(len(self.rows), self.config.batch_size, index, self.seed)]
        share = self.parallel.split(len(chosen))
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        loss = self._loss(chosen, share, rng)
        descend(loss, self.optimizer, share)
        return {"loss": float(loss.detach())}

    def _loss(self, chosen: np.ndarray, share: Share, rng: np.random.Generator) -> Tensor:
        """Mean over the rank's share of the rows ``chosen``."""
        raise NotImplementedError

    def _noisy(self, codes: Tensor, share: Share) -> Tensor:
        return codes + CODE_NOISE[self.architecture] * share.randn(*codes.shape[1:], device=codes.device)

    def validate(self) -> None:
        return None

    def export(self) -> dict[str, Any]:
        return record(self.architecture, self.sizes, self.network)


class AtomsTask(_DenseTask):
    """Atoms (n, atoms, 3; from the middle of the box, angstrom) of images, their counts (n,) and atomic numbers (n,).

    Every step turns, mirrors and shifts its images anew.
    """

    network: AtomsAutoencoder

    def __init__(
        self,
        positions: np.ndarray,
        counts: np.ndarray,
        numbers: np.ndarray,
        sizes: dict[str, int],
        config: AutoencoderConfig,
        steps: int,
        rows: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__("atoms-sites-ae", sizes, config, steps, rows, arithmetic, parallel, seed, start)
        self.positions, self.counts, self.numbers = (
            torch.from_numpy(values).to(arithmetic.device)
            for values in (positions, counts.astype(np.int64), numbers.astype(np.int64))
        )

    def _loss(self, chosen: np.ndarray, share: Share, rng: np.random.Generator) -> Tensor:
        turns = SIGNED_PERMUTATIONS[rng.integers(len(SIGNED_PERMUTATIONS), size=len(chosen))]
        shifts = rng.normal(scale=_SHIFT_ANGSTROM, size=(len(chosen), 1, 3)).astype(np.float32)
        rows = share.of(chosen)
        counts, numbers = self.counts[rows], self.numbers[rows]
        turn, shift = (torch.from_numpy(share.of(values)).to(counts.device) for values in (turns, shifts))
        positions = in_order(self.positions[rows] @ turn + shift, counts)
        codes = self._noisy(self.network.encode(positions, counts, numbers), share)
        return atoms_loss(self.network.decode(codes, numbers), positions, counts)


class CellTask(_DenseTask):
    """Cells (n, 3, 3; rows, angstrom) in the standard orientation."""

    network: CellAutoencoder

    def __init__(
        self,
        cells: np.ndarray,
        sizes: dict[str, int],
        config: AutoencoderConfig,
        steps: int,
        rows: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__("atoms-lattice-ae", sizes, config, steps, rows, arithmetic, parallel, seed, start)
        self.cells = torch.from_numpy(cells.astype(np.float32)).to(arithmetic.device)
        if start is None:
            self.network.set_scale(self.cells[rows])

    def _loss(self, chosen: np.ndarray, share: Share, rng: np.random.Generator) -> Tensor:
        cells = self.cells[share.of(chosen)]
        codes = self._noisy(self.network.encode(cells), share)
        return 6 * F.smooth_l1_loss(self.network.decode(codes), cells, beta=0.05)
