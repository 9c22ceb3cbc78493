"""Training of a CGCNN: from atom graphs to a property."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from voxtal.config import CGCNNConfig
from voxtal.errors import UserError
from voxtal.models.atom_graphs import AtomGraphs
from voxtal.models.build import build, record
from voxtal.models.cgcnn import CGCNN, predict
from voxtal.parallel.data_parallel import DataParallel
from voxtal.structures.structure_set import ENERGY_PER_ATOM, FORMATION_ENERGY, StructureSet
from voxtal.training.averaging import blend
from voxtal.training.device import Arithmetic
from voxtal.training.losses import constraint_loss
from voxtal.training.objectives import has_labels
from voxtal.training.trainer import batch_rows, cosine_rate, descend

AVERAGING = 0.999
"""Decay of the running mean of the weights, the one that is kept (laptop)."""
FROZEN = 0.5
"""Share of the steps for which the handed on convolution stays as it is (paper); then all is tuned."""
MANY_ZEROS = 0.1
"""Share of targets from which on the network learns zero or not apart from how much (laptop)."""


class CGCNNTask:
    """Atom graphs of n crystals against targets (n,), but for the rows of ``validation``.

    The weights with the lowest error on those are kept, the last ones where there are none.

    Parameters
    ----------
    preset
        Whose network and optimisation: ``paper`` has Adam at one rate on squared errors.
    targets
        In the network's unit: where the property is learned as its logarithm, that.
    facts
        What the record of the network says besides: how its property is read.
    start
        Record of the formation energy's network, whose convolutions this one begins with.

    Raises
    ------
    UserError
        That network has another shape.
    """

    def __init__(
        self,
        preset: str,
        config: CGCNNConfig,
        graphs: AtomGraphs,
        targets: np.ndarray,
        validation: np.ndarray,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
        facts: Mapping[str, Any],
        start: Mapping[str, Any] | None = None,
    ) -> None:
        self.architecture, self.published = f"{preset}-cgcnn", preset == "paper"
        self.validation = np.asarray(validation, dtype=np.int64)
        self.training = np.setdiff1d(np.arange(len(graphs)), self.validation)
        known = targets[self.training].astype(np.float32)
        two = not self.published and MANY_ZEROS <= np.mean(known == 0) < 1
        self.sizes = {"width": config.width, "layers": config.layers, "outputs": 2 if two else 1}
        torch.manual_seed(seed)
        network: CGCNN = build(self.architecture, **self.sizes)  # type: ignore[assignment]
        if not self.published:
            network.set_scale(torch.from_numpy(known[known != 0] if two else known))
        if start is not None:
            self._hand_on(start, network)
        self.network: CGCNN = arithmetic.place(network)  # type: ignore[assignment]
        self.average: CGCNN = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=config.learning_rate,
            weight_decay=0.0 if self.published else 0.05,
            fused=True,
        )
        self.modules: Mapping[str, nn.Module] = {"network": self.network, "average": self.average}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.config, self.steps, self.seed, self.parallel = config, config.steps, seed, parallel
        self.work = graphs.n_edges.cpu().numpy()[self.training]
        self.graphs, self.facts, self.transferred = graphs, dict(facts), start is not None
        self.targets = torch.from_numpy(targets.astype(np.float32)).to(arithmetic.device)

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        if self.published:
            self.network.body.requires_grad_(not (self.transferred and index < FROZEN * self.steps))
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        rows = self.training[batch_rows(len(self.training), self.config.batch_size, index, self.seed, self.work)]
        share = self.parallel.split(len(rows))
        own = torch.from_numpy(share.of(rows)).to(self.targets.device)
        outputs = self.network.outputs(self.graphs.batch(own))
        if self.published:
            loss = F.mse_loss(outputs[:, 0], self.targets[own])
        else:
            loss = constraint_loss(outputs, self.targets[own], self.network.mean, self.network.scale)
        descend(loss, self.optimizer, share)
        blend(self.average, self.network, 0.0 if self.published else min(AVERAGING, (index + 1) / (index + 10)))
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> float | None:
        """Mean absolute error of the kept weights on the validation rows, in the targets' unit."""
        if not len(self.validation):
            return None
        rows = torch.from_numpy(self.validation).to(self.targets.device)
        return float((predict(self.average, self.graphs, rows) - self.targets[rows]).abs().mean())

    def export(self) -> dict[str, Any]:
        return record(self.architecture, self.sizes, self.average, **self.facts)

    def _hand_on(self, start: Mapping[str, Any], network: CGCNN) -> None:
        shape = {"width": self.sizes["width"], "layers": self.sizes["layers"]}
        if start["architecture"] != self.architecture or {name: start["sizes"][name] for name in shape} != shape:
            raise UserError(
                f"The network of the formation energy is a {start['architecture']} of {start['sizes']}; one that "
                f"starts from it cannot be a {self.architecture} of {shape}. Use one preset and train.cgcnn for both."
            )
        prefix = "body."
        body = {name.removeprefix(prefix): w for name, w in start["weights"].items() if name.startswith(prefix)}
        network.body.load_state_dict(body)


def starts_from_energies(property_: str, structures: StructureSet) -> bool:
    """Whether the property's network begins with the convolutions of the formation energy's.

    All do but that of the energy per atom (as published), where the structures have formation energies.
    """
    return property_ not in (FORMATION_ENERGY, ENERGY_PER_ATOM) and has_labels(structures, FORMATION_ENERGY)


def learned_values(values: np.ndarray, log10: bool) -> np.ndarray:
    """What is learned of a property's values (n,): they themselves, or their logarithms, NaN where there is none."""
    if not log10:
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log10(values), np.nan)
