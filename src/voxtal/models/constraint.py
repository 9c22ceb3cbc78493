"""Constraint: from a crystal graph to a property, formation energy first (CCDCGAN, section Constraint)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from voxtal.models.gan import published_convolutions
from voxtal.models.scaling import Scaled
from voxtal.models.tokens import GraphTokens, TokenNetwork

_LAYERS = 3

_DECISION = 2.0
"""Steepness of the step between zero and the amount: 1 is the expectation, more comes nearer to a decision. For band
gaps 2 has the least squared and nearly the least absolute error (docs/objectives.md)."""
_LEAK = 0.1
"""Slope of both outputs that is added to gradients only: where the step is flat, a generator of metals would never be
told the way out."""


class Constraint(Scaled):
    """A network with a linear output, in units of the training targets' mean and standard deviation.

    A second output, where there is one, is the logit of the property not being zero: most crystals are metals, and a
    band gap between theirs and an insulator's is neither. Mean and deviation are then those of the others.

    Parameters
    ----------
    layers
        Maps graphs (batch, 1, side, side) to (batch, 1) or (batch, 2).
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def outputs(self, graphs: Tensor) -> Tensor:
        """Standardised property and logit of its not being zero, (batch, 1 or 2), of graphs (batch, side, side)."""
        return self.layers(graphs.unsqueeze(1))

    def forward(self, graphs: Tensor) -> Tensor:
        """Property (batch,), in the targets' unit, of graphs (batch, side, side)."""
        outputs = self.outputs(graphs)
        amount = outputs[:, 0] * self.scale + self.mean
        if outputs.shape[1] == 1:
            return amount
        leak = amount + self.mean * outputs[:, 1]
        return amount * torch.sigmoid(_DECISION * outputs[:, 1]) + _LEAK * (leak - leak.detach())


def paper_constraint(side: int, outputs: int = 1) -> Constraint:
    """The published constraint: the discriminator's convolutions with a linear output (Fig. 3C)."""
    layers = nn.Sequential(*published_convolutions(side), nn.LazyLinear(outputs))
    with torch.no_grad():
        layers.eval()(torch.zeros(1, 1, side, side))
    return Constraint(layers.train())


def token_constraint(
    elements: Sequence[int], lattice_latent: int, sites_latent: int, threshold: float, width: int, outputs: int = 1
) -> Constraint:
    """Self-attention over the cell and the elements present; ``elements`` to ``threshold`` as :class:`GraphTokens`."""
    tokens = GraphTokens(elements, lattice_latent, sites_latent, threshold)
    network = TokenNetwork(lattice_latent, sites_latent, width, _LAYERS, outputs)
    return Constraint(nn.Sequential(nn.Flatten(1, 2), tokens, network))
