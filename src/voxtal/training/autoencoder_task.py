"""Training of a sites or lattice autoencoder on a voxel data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import AutoencoderConfig
from voxtal.data.batches import densify
from voxtal.data.dataset import SparseBatch
from voxtal.models.autoencoder import VoxelAutoencoder
from voxtal.models.build import build, record
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.training.device import Arithmetic
from voxtal.training.losses import squared_error, weighted_cross_entropy
from voxtal.training.trainer import batch_rows, cosine_rate, descend

CODE_NOISE = {"laptop-sites-ae": 0.1, "laptop-lattice-ae": 0.02}
"""Standard deviation of the noise on codes in training: decoding then forgives a generator's small errors. Cells are
continuous, unlike atom counts: more noise there costs degrees in the angles."""


class AutoencoderTask:
    """One network for the images of every element (or every cell).

    Parameters
    ----------
    read
        Image rows to their sparse batch (``VoxelDataset.sites_sparse`` or ``.lattice_sparse``).
    rows
        (n,) image rows to train on.
    start
        Weights to start from, or None for fresh ones.
    """

    def __init__(
        self,
        architecture: str,
        sizes: dict[str, int],
        config: AutoencoderConfig,
        steps: int,
        read: Callable[[np.ndarray], SparseBatch],
        rows: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.architecture = architecture
        self.sizes = sizes
        torch.manual_seed(seed)
        network = build(architecture, **self.sizes)
        if start is not None:
            network.load_state_dict(start)
        self.network: VoxelAutoencoder = arithmetic.place(network)  # type: ignore[assignment]
        self.published = architecture.startswith("paper")
        optimizer = torch.optim.Adam if self.published else torch.optim.AdamW
        self.optimizer = optimizer(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.steps, self.parallel = steps, parallel
        self.config, self.read, self.rows, self.arithmetic, self.seed = config, read, rows, arithmetic, seed

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = self.rows[batch_rows(len(self.rows), self.config.batch_size, index, self.seed)]
        share = self.parallel.split(len(chosen))
        images = self.images(share.of(chosen))
        if not self.published:
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        with self.arithmetic.autocast():
            loss = self._loss(images, share)
        descend(loss, self.optimizer, share)
        return {"loss": float(loss.detach())}

    def images(self, rows: np.ndarray) -> Tensor:
        """Dense images (len(rows), 1, G, G, G) on the device."""
        return densify(self.read(rows), self.arithmetic.device, torch.float32)

    def _loss(self, images: Tensor, share: Share) -> Tensor:
        if self.published:
            return squared_error(self.network(images), images)
        codes = self.network.encode(images)
        codes = codes + CODE_NOISE[self.architecture] * share.randn(*codes.shape[1:], device=codes.device)
        return weighted_cross_entropy(self.network.decode_logits(codes), images)

    def validate(self) -> None:
        return None

    def export(self) -> dict[str, Any]:
        return record(self.architecture, self.sizes, self.network)
