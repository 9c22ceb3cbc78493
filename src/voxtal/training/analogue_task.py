"""Training of the analogue generator: hidden elements of known crystals, and their volume."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from voxtal.config import LayeredConfig
from voxtal.models.build import build, record
from voxtal.models.elements import Arrangement, elements_loss
from voxtal.parallel.data_parallel import DataParallel
from voxtal.training.analogue_data import Arrangements
from voxtal.training.averaging import blend
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import batch_rows, cosine_rate, descend

AVERAGING = 0.999
"""Decay of the running mean of the weights, the one that is kept."""


class AnalogueTask:
    """Known crystals, of which some elements are hidden.

    Parameters
    ----------
    properties
        Names of the columns of ``data.values``.
    """

    architecture = "analogue-elements"

    def __init__(
        self,
        config: LayeredConfig,
        data: Arrangements,
        properties: Sequence[str],
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
    ) -> None:
        self.sizes = {"width": config.width, "layers": config.layers, "atoms": int(data.counts.max())}
        torch.manual_seed(seed)
        network: Any = build(self.architecture, **self.sizes)
        network.volume_mean.copy_(torch.tensor(np.log(data.volumes).mean()))
        self.network = arithmetic.place(network)
        self.average: nn.Module = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=0.05, fused=True
        )
        self.modules: Mapping[str, nn.Module] = {"network": self.network, "average": self.average}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.volumes = data.volumes.astype(np.float32)
        self.properties, self.data, self.config = tuple(properties), data, config
        self.steps, self.seed, self.parallel, self.device = config.steps, seed, parallel, arithmetic.device

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        rows = batch_rows(len(self.data), self.config.batch_size, index, self.seed)
        share = self.parallel.split(len(rows))
        own = share.of(rows)
        most = int(self.data.sizes[rows].max())  # of the whole batch: noise is drawn for all ranks alike
        numbers, counts, pairs = (torch.from_numpy(part).to(self.device) for part in self.data.batch(own, most))
        volumes = torch.from_numpy(self.volumes[own]).to(self.device)
        draw = share.rand(most + 1, device=self.device)
        arrangement = Arrangement(counts, pairs)
        elements, volume = elements_loss(self.network, numbers, arrangement, volumes, draw)  # type: ignore[arg-type]
        descend(elements + volume, self.optimizer, share)
        blend(self.average, self.network, min(AVERAGING, (index + 1) / (index + 10)))
        losses = torch.stack([elements, volume]).tolist()  # at once: reading a number waits for the GPU
        return {"loss": losses[0], "volume_loss": losses[1]}

    def validate(self) -> None:
        return None

    def export(self) -> dict[str, Any]:
        facts = {"properties": self.properties, **self.data.facts()}
        return record(self.architecture, self.sizes, self.average, **facts)
