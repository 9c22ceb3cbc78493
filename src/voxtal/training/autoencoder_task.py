"""Training of an autoencoder: of voxels, or of what voxels show, the atoms of an element or a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import AutoencoderConfig
from voxtal.models.build import build, record
from voxtal.parallel.data_parallel import DataParallel
from voxtal.training.autoencoder_data import AutoencoderData
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import batch_rows, cosine_rate, descend

_SITES_NOISE = 0.1
_LATTICE_NOISE = 0.02


class AutoencoderTask:
    """One network for the images of every element (or for every cell).

    Parameters
    ----------
    data
        What the network is to give back.
    rows
        (n,) rows of ``data`` to train on.
    start
        Weights to start from, or None for fresh ones.
    """

    def __init__(
        self,
        architecture: str,
        sizes: dict[str, int],
        config: AutoencoderConfig,
        steps: int,
        data: AutoencoderData,
        rows: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.architecture, self.sizes = architecture, sizes
        torch.manual_seed(seed)
        network: Any = build(architecture, **sizes)
        if start is not None:
            network.load_state_dict(start)
        else:
            data.scale(network, rows)
        self.network = arithmetic.place(network)
        self.published = architecture.startswith("paper")
        optimizer = torch.optim.Adam if self.published else torch.optim.AdamW
        self.optimizer = optimizer(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.steps, self.parallel, self.data = steps, parallel, data
        self.config, self.rows, self.seed = config, rows, seed

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = self.rows[batch_rows(len(self.rows), self.config.batch_size, index, self.seed)]
        share = self.parallel.split(len(chosen))
        if not self.published:
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        loss = self.data.loss(self.network, chosen, share, noise_of(self.architecture), rng)
        descend(loss, self.optimizer, share)
        return {"loss": float(loss.detach())}

    def validate(self) -> None:
        return None

    def export(self) -> dict[str, Any]:
        return record(self.architecture, self.sizes, self.network)


def noise_of(architecture: str) -> float:
    """Standard deviation of the noise on codes in training: decoding then forgives a generator's small errors.

    Cells are continuous, unlike atom counts: more noise there costs degrees in the angles. None as published.
    """
    if architecture.startswith("paper"):
        return 0.0
    return _SITES_NOISE if architecture.endswith("sites-ae") else _LATTICE_NOISE
