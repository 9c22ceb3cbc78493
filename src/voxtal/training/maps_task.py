"""What training of networks on density maps has in common: batches of turned maps, steps, validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config_icsg3d import MapsModelConfig
from voxtal.data.dataset import DensityDataset
from voxtal.models.build import build
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.training.density_data import TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import batch_rows, cosine_rate, descend

VALIDATED = 128
"""Structures of the validation split that the weights to keep are chosen by, at most."""


class MapsTask(ABC):
    """The structures ``training`` (rows of a data set of density maps) and their turns; ``validation`` ones choose the
    weights that are kept, the last ones where there are none.

    ``paper-`` architectures are trained with Adam at one rate, as published, others with AdamW and half a cosine.
    """

    network: Any

    def __init__(
        self,
        architecture: str,
        sizes: dict[str, Any],
        config: MapsModelConfig,
        steps: int,
        dataset: DensityDataset,
        training: np.ndarray,
        validation: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
    ) -> None:
        self.architecture, self.sizes = architecture, sizes
        self.published = architecture.startswith("paper")
        torch.manual_seed(seed)
        self.network = arithmetic.place(build(architecture, **sizes))
        optimizer = torch.optim.Adam if self.published else torch.optim.AdamW
        self.optimizer = optimizer(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.config, self.steps, self.seed = config, steps, seed
        self.arithmetic, self.parallel = arithmetic, parallel
        self.training = TurnedMaps(dataset, training, config.rotations, seed, arithmetic.device)
        self.work = self.training.atom_counts()
        self.validation = TurnedMaps(dataset, validation[:VALIDATED], 0, seed, arithmetic.device)

    @abstractmethod
    def losses_of(self, maps: TurnedMaps, chosen: np.ndarray, share: Share | None) -> dict[str, Tensor]:
        """``loss`` and what else is logged, means over the maps at ``chosen`` (b,).

        These are this rank's ``share`` of a batch or, where that is None, maps to validate with.
        """

    @abstractmethod
    def export(self) -> dict[str, Any]:
        """What ``best.pt`` holds."""

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = batch_rows(len(self.training), self.config.batch_size, index, self.seed, self.work)
        share = self.parallel.split(len(chosen))
        if not self.published:
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        losses = self.losses_of(self.training, share.of(chosen), share)
        descend(losses["loss"], self.optimizer, share)
        # at the end and at once: reading a number waits for the GPU
        return dict(zip(losses, torch.stack([value.detach() for value in losses.values()]).tolist(), strict=True))

    @torch.no_grad()
    def validate(self) -> float | None:
        """Mean :meth:`score` of the validation structures."""
        if not len(self.validation):
            return None
        self.network.eval()
        parts = np.array_split(np.arange(len(self.validation)), -(-len(self.validation) // self.config.batch_size))
        total = sum(self.score(part) * len(part) for part in parts)
        self.network.train()
        return total / len(self.validation)

    def score(self, chosen: np.ndarray) -> float:
        """Of the validation maps at ``chosen`` (b,); the weights with the lowest mean are kept."""
        return float(self.losses_of(self.validation, chosen, None)["loss"])
