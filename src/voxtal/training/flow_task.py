"""Training of the token generator: its flow and its composition network, each on batches of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import LayeredConfig
from voxtal.models.build import build, record
from voxtal.models.composition import composition_loss
from voxtal.models.flow import Asked, flow_loss
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.training.averaging import blend
from voxtal.training.device import Arithmetic
from voxtal.training.flow_data import Standard, TokenData
from voxtal.training.trainer import batch_rows, cosine_rate, descend

UNKNOWN = 0.2
"""Share of crystals whose properties the network is not told, so that it can do without."""
AVERAGING = 0.999
"""Decay of the running mean of the weights, the one that is kept."""


class FlowTask:
    """Tokens of crystals, to learn to make others like them.

    A batch of the flow has crystals of one number of elements only, so that none is filled up.

    Parameters
    ----------
    properties
        Names of the columns of ``data.values``.
    """

    architecture = "flow-generator"

    def __init__(
        self,
        config: LayeredConfig,
        data: TokenData,
        properties: Sequence[str],
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
    ) -> None:
        self.sizes = {
            "lattice_latent": data.lattice.shape[1],
            "sites_latent": data.sites.shape[1],
            "width": config.width,
            "layers": config.layers,
            "properties": len(properties),
            "atoms": int(data.counts.max()),
        }
        torch.manual_seed(seed)
        network: Any = build(self.architecture, **self.sizes)
        network.flow.set_scale(torch.from_numpy(data.lattice), torch.from_numpy(data.sites))
        self.network = arithmetic.place(network)
        self.average: nn.Module = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), fused=True
        )
        self.modules: Mapping[str, nn.Module] = {"network": self.network, "average": self.average}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.standard = Standard.of(data.values)
        self.condition = self.standard.condition(data.values)
        self.groups = [rows for size in np.unique(data.sizes) if len(rows := np.flatnonzero(data.sizes == size))]
        self.properties, self.data, self.config = tuple(properties), data, config
        self.steps, self.seed, self.parallel, self.device = config.steps, seed, parallel, arithmetic.device

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        sizes = np.array([len(rows) for rows in self.groups])
        alike = self.groups[rng.choice(len(self.groups), p=sizes / sizes.sum())]
        size = min(self.config.batch_size, len(self.data))
        share = self.parallel.split(size)
        flow = self._flow_loss(rng.choice(alike, size), share)
        composition = self._composition_loss(batch_rows(len(self.data), size, index, self.seed), share)
        descend(flow + composition, self.optimizer, share)
        blend(self.average, self.network, min(AVERAGING, (index + 1) / (index + 10)))
        losses = torch.stack([flow, composition]).tolist()  # at once: reading a number waits for the GPU
        return {"loss": losses[0], "composition_loss": losses[1]}

    def _flow_loss(self, rows: np.ndarray, share: Share) -> Tensor:
        own, tokens = share.of(rows), int(self.data.sizes[rows[0]])
        network: Any = self.network
        codes = (torch.from_numpy(part).to(self.device) for part in self.data.codes(own, tokens))
        lattice, sites = network.flow.standard(*codes)
        time = torch.sigmoid(share.randn(device=self.device))
        noise = share.randn(lattice.shape[1] + sites[0].numel(), device=self.device)
        return flow_loss(network.flow, lattice, sites, self._asked(rows, tokens, share), time, noise)

    def _composition_loss(self, rows: np.ndarray, share: Share) -> Tensor:
        tokens = int(self.data.sizes[rows].max())
        wanted = self._asked(rows, tokens, share)
        draw = share.rand(tokens + 2, device=self.device)
        network: Any = self.network
        return composition_loss(network.composition, wanted.numbers, wanted.counts, wanted.condition, draw)

    def _asked(self, rows: np.ndarray, tokens: int, share: Share) -> Asked:
        """What the rank's share of a batch is told of its crystals: of some, nothing of their properties."""
        told = share.bernoulli(1 - UNKNOWN, 1, device="cpu").numpy()
        condition = self.condition[share.of(rows)] * told
        parts = (*self.data.elements(share.of(rows), tokens), condition)
        return Asked(*(torch.from_numpy(part).to(self.device) for part in parts))

    def validate(self) -> None:
        return None

    def export(self) -> dict[str, Any]:
        return record(
            self.architecture,
            self.sizes,
            self.average,
            properties=self.properties,
            values=torch.from_numpy(self.data.values),
            mean=torch.from_numpy(self.standard.mean),
            deviation=torch.from_numpy(self.standard.deviation),
            atoms=int(np.add.reduceat(self.data.counts, self.data.offsets[:-1]).max()),
        )
