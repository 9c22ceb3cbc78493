"""Training of CCDCGAN: generator against discriminator, with frozen constraints as further teachers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import GANConfig
from voxtal.models.build import build, record
from voxtal.models.constraint import Constraint
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.training.averaging import blend
from voxtal.training.device import Arithmetic
from voxtal.training.losses import (
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    objective_term,
    relativistic_loss,
)
from voxtal.training.trainer import batch_rows, descend

GRAPH_NOISE = 0.03
"""Standard deviation of the noise on what the discriminator sees (laptop): codes are nearly binary, and without
noise it would tell generated ones by that alone."""
PENALTY = 0.3
"""Weight of R1 + R2."""
AVERAGING = 0.995
"""Decay of the running mean of the generator's weights, the one that is kept."""


class GANTask:
    """Graphs (n, side, side) to learn to imitate; ``constraints`` predict each property of ``config.objectives``.

    ``paper-*``: eqs. 1 and 2 with the published networks. ``laptop-*``: dense networks, pairwise relativistic loss
    with gradient penalties on both sides, averaged weights; the constraints' terms of eq. 2 are the same.
    """

    def __init__(
        self,
        preset: str,
        config: GANConfig,
        graphs: np.ndarray,
        constraints: Mapping[str, Constraint],
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
    ) -> None:
        side = graphs.shape[-1]
        self.published = preset == "paper"
        self.architecture = f"{preset}-generator"
        self.sizes = {"side": side, "width": config.width, "noise": config.noise}
        discriminator_sizes = {"side": side} | ({} if self.published else {"width": config.width})
        torch.manual_seed(seed)
        self.generator = arithmetic.place(build(self.architecture, **self.sizes))
        self.discriminator = arithmetic.place(build(f"{preset}-discriminator", **discriminator_sizes))
        self.average: nn.Module = copy.deepcopy(self.generator).requires_grad_(False)
        self.constraints = {
            objective.property: arithmetic.place(constraints[objective.property].eval().requires_grad_(False))
            for objective in config.objectives
        }
        betas = (0.5, 0.999) if self.published else (0.0, 0.99)
        adam = partial(torch.optim.Adam, lr=config.learning_rate, betas=betas, fused=True)
        self.generator_optimizer = adam(self.generator.parameters())
        self.discriminator_optimizer = adam(self.discriminator.parameters())
        self.modules: Mapping[str, nn.Module] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            "generator": self.generator_optimizer,
            "discriminator": self.discriminator_optimizer,
        }
        self.graphs = torch.from_numpy(graphs).to(arithmetic.device)
        self.config, self.steps, self.seed, self.device = config, config.steps, seed, arithmetic.device
        self.parallel = parallel

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = batch_rows(len(self.graphs), self.config.batch_size, index, self.seed)
        share = self.parallel.split(len(chosen))
        original = self.graphs[share.of(chosen)]
        generated = self.generator(share.randn(self.config.noise, device=self.device))
        discriminator = self._teach_discriminator(original, generated.detach(), share)
        self.discriminator.requires_grad_(False)
        generator = self._teach_generator(original, generated, share)
        self.discriminator.requires_grad_(True)
        blend(self.average, self.generator, 0.0 if self.published else AVERAGING)
        losses = {**generator, "discriminator_loss": discriminator}
        # at the end and at once: reading a number waits for the GPU
        return dict(zip(losses, torch.stack(list(losses.values())).tolist(), strict=True))

    def _teach_discriminator(self, original: Tensor, generated: Tensor, share: Share) -> Tensor:
        if self.published:
            loss = discriminator_loss(self.discriminator(original), self.discriminator(generated))
        else:
            both = torch.cat([_blurred(original, share), _blurred(generated, share)])
            logits, penalty = gradient_penalty(self.discriminator, both)
            loss = relativistic_loss(*logits.chunk(2)) + PENALTY * penalty
        descend(loss, self.discriminator_optimizer, share)
        return loss.detach()

    def _teach_generator(self, original: Tensor, generated: Tensor, share: Share) -> dict[str, Tensor]:
        """Of each property the mean prediction under its name, and its term of the loss as ``NAME_loss``."""
        if self.published:
            loss = generator_loss(self.discriminator(generated))
        else:
            logits = self.discriminator(_blurred(generated, share))
            loss = relativistic_loss(logits, self.discriminator(_blurred(original, share)).detach())
        logged: dict[str, Tensor] = {}
        for objective in self.config.objectives:
            predicted = self.constraints[objective.property](generated)
            term = objective.weight * objective_term(objective, predicted).mean()
            loss = loss + term
            logged |= {objective.property: predicted.mean(), f"{objective.property}_loss": term}
        descend(loss, self.generator_optimizer, share)
        return {name: value.detach() for name, value in {"loss": loss, "generator_loss": loss, **logged}.items()}

    def validate(self) -> None:
        return None

    def export(self) -> dict[str, Any]:
        return record(self.architecture, self.sizes, self.average)


def _blurred(graphs: Tensor, share: Share) -> Tensor:
    return graphs + GRAPH_NOISE * share.randn(*graphs.shape[1:], device=graphs.device)
