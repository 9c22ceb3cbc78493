"""Training of a constraint: from crystal graphs to a property."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from voxtal.config import ModelConfig
from voxtal.models.build import build, record
from voxtal.models.constraint import Constraint
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.training.device import Arithmetic
from voxtal.training.losses import constraint_loss
from voxtal.training.trainer import batch_rows, cosine_rate, descend

GRAPH_NOISE = 0.05
"""Standard deviation of the noise on graphs in training (laptop): a generator's codes are only near a crystal's."""
MANY_ZEROS = 0.1
"""Share of targets from which on the network learns zero or not apart from how much."""


class ConstraintTask:
    """Graphs (n, side, side) of a layout against targets (n,), but for the rows of ``validation``.

    ``threshold``: smallest root mean square of a present element's code.

    The weights with the lowest error on those are kept, the last ones where there are none.
    """

    def __init__(
        self,
        architecture: str,
        config: ModelConfig,
        layout: GraphLayout,
        threshold: float,
        graphs: np.ndarray,
        targets: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        validation: Sequence[int] | np.ndarray = (),
    ) -> None:
        self.architecture = architecture
        self.published = architecture.startswith("paper")
        self.validation = np.asarray(validation, dtype=np.int64)
        self.training = np.setdiff1d(np.arange(len(graphs)), self.validation)
        known = targets[self.training]
        two = MANY_ZEROS <= np.mean(known == 0) < 1
        self.sizes: dict[str, Any] = {"side": layout.side}
        if not self.published:
            self.sizes = {"elements": list(layout.elements), "threshold": threshold, "width": config.width}
            self.sizes |= {"lattice_latent": layout.lattice_latent, "sites_latent": layout.sites_latent}
        self.sizes |= {"outputs": 2} if two else {}
        torch.manual_seed(seed)
        self.network: Constraint = arithmetic.place(build(architecture, **self.sizes))  # type: ignore[assignment]
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=0.0 if self.published else 0.05,
            fused=True,
        )
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.config, self.steps, self.seed, self.parallel = config, config.steps, seed, parallel
        self.graphs = torch.from_numpy(graphs).to(arithmetic.device)
        self.targets = torch.from_numpy(targets.astype(np.float32)).to(arithmetic.device)
        self.network.set_scale(torch.from_numpy((known[known != 0] if two else known).astype(np.float32)))

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = self.training[batch_rows(len(self.training), self.config.batch_size, index, self.seed)]
        share = self.parallel.split(len(chosen))
        graphs, targets = self.graphs[share.of(chosen)], self.targets[share.of(chosen)]
        if not self.published:
            graphs = graphs + GRAPH_NOISE * share.randn(*graphs.shape[1:], device=graphs.device)
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        loss = constraint_loss(self.network.outputs(graphs), targets, self.network.mean, self.network.scale)
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
