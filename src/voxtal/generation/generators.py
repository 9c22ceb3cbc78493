"""Generators behind one interface: numbered attempts in, latent codes out. The decoder does the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor, nn

from voxtal.config import ObjectiveConfig
from voxtal.generation.codes import Codes, codes_of_graphs, graphs_of_codes
from voxtal.generation.request import Request
from voxtal.generation.sampling import predicted, sample_graphs
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.training.device import Arithmetic
from voxtal.units import ATOMIC_NUMBERS

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


@dataclass(frozen=True)
class Setting:
    """What every generator of a round is opened with.

    Attributes
    ----------
    constraints
        Property -> what predicts it from crystal graphs, on the device.
    objectives
        What attempts are to be like.
    """

    constraints: Mapping[str, nn.Module]
    objectives: Sequence[ObjectiveConfig]
    layout: GraphLayout
    request: Request
    seed: int
    arithmetic: Arithmetic

    @property
    def device(self) -> torch.device:
        return self.arithmetic.device

    def allowed(self) -> Tensor:
        """(119,) which atomic numbers may be drawn."""
        symbols = self.request.allowed(chemical_symbols[z] for z in self.layout.elements)
        allowed = torch.zeros(ATOMIC_NUMBERS, dtype=torch.bool, device=self.device)
        allowed[[atomic_numbers[symbol] for symbol in symbols]] = True
        return allowed


@dataclass(frozen=True)
class BlockGenerator(ABC):
    """A generator that always draws whole blocks of :data:`BATCH` attempts: each has the same company every time."""

    setting: Setting

    def draw(self, attempts: np.ndarray) -> Draw:
        """Draw attempts of one block."""
        first = attempts[0] // BATCH * BATCH
        codes = self.block(np.arange(first, first + BATCH))
        places = attempts - first
        graphs = graphs_of_codes(codes, self.setting.layout)
        predictions = predicted(self.setting.constraints, graphs, self.setting.device)
        return Draw(codes.subset(places), {name: values[places] for name, values in predictions.items()})

    @abstractmethod
    def block(self, attempts: np.ndarray) -> Codes:
        """Codes of all attempts of a block."""


@dataclass(frozen=True)
class GraphGenerator:
    """The GAN of crystal graphs, with the constraints that predict properties from them.

    Attributes
    ----------
    presence_threshold
        Smallest root mean square of a present element's code.
    """

    setting: Setting
    network: nn.Module
    presence_threshold: float

    @property
    def model(self) -> str:
        return "ccdcgan"

    def draw(self, attempts: np.ndarray) -> Draw:
        """Draw at most :data:`BATCH` attempts, whose numbers follow each other.

        Networks see full batches, fewer attempts being filled up, and each has its own place in them: what a network
        makes of a row may depend, in the last bit, on where it is.
        """
        setting = self.setting
        places = attempts % BATCH
        filled = np.zeros(BATCH, dtype=attempts.dtype)
        filled[places] = attempts
        graphs = sample_graphs(self.network, setting.seed, filled, setting.device)
        codes = codes_of_graphs(graphs[places], setting.layout, self.presence_threshold, setting.request)
        if setting.request.chooses:  # what is predicted is of what gets decoded
            graphs[places] = graphs_of_codes(codes, setting.layout)
        predictions = predicted(setting.constraints, graphs, setting.device)
        return Draw(codes, {name: values[places] for name, values in predictions.items()})
