"""Constraint: from a crystal graph to a property, formation energy first (CCDCGAN, section Constraint)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voxtal.models.gan import published_convolutions


class Constraint(nn.Module):
    """A network with a linear output, in units of the training targets' mean and standard deviation.

    Parameters
    ----------
    layers
        Maps graphs (batch, 1, side, side) to (batch, 1).
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def set_scale(self, targets: Tensor) -> None:
        """Take mean and standard deviation from the training targets."""
        self.mean.copy_(targets.mean())
        self.scale.copy_(targets.std().clamp_min(1e-3) if len(targets) > 1 else torch.ones(()))

    def forward(self, graphs: Tensor) -> Tensor:
        """Property (batch,), in the targets' unit, of graphs (batch, side, side)."""
        return self.layers(graphs.unsqueeze(1)).squeeze(1) * self.scale + self.mean


def paper_constraint(side: int) -> Constraint:
    """The published constraint: the discriminator's convolutions with a linear output (Fig. 3C)."""
    layers = nn.Sequential(*published_convolutions(side), nn.LazyLinear(1))
    with torch.no_grad():
        layers.eval()(torch.zeros(1, 1, side, side))
    return Constraint(layers.train())


def dense_constraint(side: int, width: int) -> Constraint:
    """Two hidden layers over the codes, with dropout: learns from a few hundred labels."""
    return Constraint(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(side * side, width),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Dropout(0.3),
            nn.Linear(width, 1),
        )
    )
