"""The token generator: draws a composition, then the codes of a crystal that has it."""

from __future__ import annotations

from torch import nn

from voxtal.models.composition import CompositionNetwork
from voxtal.models.flow import TokenFlow


class CrystalFlow(nn.Module):
    """A composition network and a flow over tokens, which are trained and kept together.

    Parameters
    ----------
    lattice_latent, sites_latent
        Lengths of the codes.
    properties
        How many of them a condition has.
    atoms
        Most atoms of one element.
    width, layers
        Of the flow; the composition network is two thirds as wide.
    """

    def __init__(
        self, lattice_latent: int, sites_latent: int, width: int, layers: int, properties: int, atoms: int
    ) -> None:
        super().__init__()
        self.composition = CompositionNetwork(2 * width // 3, properties, atoms)
        self.flow = TokenFlow(lattice_latent, sites_latent, width, layers, properties, atoms)
