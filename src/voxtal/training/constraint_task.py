"""Training of a constraint: from crystal graphs to a property."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from voxtal.config import ModelConfig
from voxtal.models.build import build, record
from voxtal.models.constraint import Constraint
from voxtal.parallel.data_parallel import DataParallel
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import batch_rows, cosine_rate, descend

GRAPH_NOISE = 0.3
"""Standard deviation of the noise on graphs in training (laptop): a few hundred labels are soon known by heart."""
_VALIDATION_SHARE = 1 / 9
"""Of the rows that are not held out: with a tenth held out, the published 80/10/10 split."""


class ConstraintTask:
    """Graphs (n, side, side) against targets (n,); the weights with the lowest validation error are kept."""

    def __init__(
        self,
        architecture: str,
        config: ModelConfig,
        graphs: np.ndarray,
        targets: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
    ) -> None:
        self.architecture = architecture
        self.published = architecture.startswith("paper")
        self.sizes = {"side": graphs.shape[-1]} | ({} if self.published else {"width": config.width})
        torch.manual_seed(seed)
        self.network: Constraint = arithmetic.place(build(architecture, **self.sizes))  # type: ignore[assignment]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=0.0 if self.published else 0.3,
            fused=True,
        )
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.config, self.steps, self.seed, self.parallel = config, config.steps, seed, parallel
        order = np.random.default_rng([seed, 2]).permutation(len(graphs))
        n_validation = min(round(_VALIDATION_SHARE * len(graphs)), len(graphs) - 1)
        self.validation, self.training = order[:n_validation], order[n_validation:]
        self.graphs = torch.from_numpy(graphs).to(arithmetic.device)
        self.targets = torch.from_numpy(targets.astype(np.float32)).to(arithmetic.device)
        self.network.set_scale(self.targets[self.training])

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = self.training[batch_rows(len(self.training), self.config.batch_size, index, self.seed)]
        share = self.parallel.split(len(chosen))
        graphs, targets = self.graphs[share.of(chosen)], self.targets[share.of(chosen)]
        if not self.published:
            graphs = graphs + GRAPH_NOISE * share.randn(*graphs.shape[1:], device=graphs.device)
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        scale = self.network.scale
        loss = F.smooth_l1_loss(self.network(graphs) / scale, targets / scale)
        descend(loss, self.optimizer, share)
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> float | None:
        """Mean absolute error on the validation rows, in the targets' unit."""
        if not len(self.validation):
            return None
        self.network.eval()
        error = (self.network(self.graphs[self.validation]) - self.targets[self.validation]).abs().mean()
        self.network.train()
        return float(error)

    def export(self) -> dict[str, Any]:
        return record(self.architecture, self.sizes, self.network)
