"""Generators behind one interface: numbered attempts in, latent codes out. The decoder does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from voxtal.generation.codes import Codes, codes_of_graphs, graphs_of_codes
from voxtal.generation.request import Request
from voxtal.generation.sampling import predicted, sample_graphs
from voxtal.representations.crystal_graph import GraphLayout

BATCH = 64
"""Attempts that the networks see at once; a block of the folder has no more."""


@dataclass(frozen=True)
class Draw:
    """What a generator makes of some attempts.

    Attributes
    ----------
    codes
        Of the n attempts, in their order.
    predicted
        Property -> (n,) prediction, in the property's unit.
    """

    codes: Codes
    predicted: dict[str, np.ndarray]


class Generator(Protocol):
    """Anything that draws codes for the round's decoders."""

    @property
    def model(self) -> str:
        """Name of the model, which is recorded as the source of each attempt."""
        ...

    def draw(self, attempts: np.ndarray) -> Draw:
        """Draw the attempts with these numbers. Each depends on the seed and its number alone."""
        ...


def drawn_of(
    codes: Codes, constraints: Mapping[str, nn.Module], layout: GraphLayout, device: torch.device, places: np.ndarray
) -> Draw:
    """The attempts at ``places`` of a whole block; all are predicted together, so that each has the same company."""
    predictions = predicted(constraints, graphs_of_codes(codes, layout), device)
    return Draw(codes.subset(places), {name: values[places] for name, values in predictions.items()})


@dataclass(frozen=True)
class GraphGenerator:
    """The GAN of crystal graphs, with the constraints that predict properties from them.

    Attributes
    ----------
    presence_threshold
        Smallest root mean square of a present element's code.
    batch
        Attempts that the networks always see at once, fewer being filled up.
    """

    network: nn.Module
    constraints: Mapping[str, nn.Module]
    layout: GraphLayout
    presence_threshold: float
    request: Request
    seed: int
    device: torch.device
    batch: int

    @property
    def model(self) -> str:
        return "ccdcgan"

    def draw(self, attempts: np.ndarray) -> Draw:
        """Draw at most ``batch`` attempts, whose numbers follow each other.

        Each has its own place in the batch: what a network makes of a row may depend, in the last bit, on where it is.
        """
        places = attempts % self.batch
        filled = np.zeros(self.batch, dtype=attempts.dtype)
        filled[places] = attempts
        graphs = sample_graphs(self.network, self.seed, filled, self.device)
        codes = codes_of_graphs(graphs[places], self.layout, self.presence_threshold, self.request)
        if self.request.chooses:  # what is predicted is of what gets decoded
            graphs[places] = graphs_of_codes(codes, self.layout)
        predictions = predicted(self.constraints, graphs, self.device)
        return Draw(codes, {name: values[places] for name, values in predictions.items()})
