"""Maps that the VAE draws to crystals: species by the UNet, sites, cell, validity (ICSG3D,
doi:10.1021/acs.jcim.0c00464)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from voxtal.generation.decode import Decoded
from voxtal.models.unet import UNet
from voxtal.representations.density import DensityGrid, cell_from_coordinates
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.reasons import Undecodable
from voxtal.representations.watershed import BINARY_THRESHOLD, decode_watershed
from voxtal.structures.validity import why_invalid

THRESHOLD = 0.5
"""Probability of a voxel being in an ion, from which on our decoder takes it for one."""

Sites = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class MapDecoder:
    """A UNet and what its maps are of.

    Attributes
    ----------
    published
        The watershed of the binary map instead of the sites that explain both maps best.
    drawn
        Whether a network drew the density maps, too: no sites explain them exactly.
    """

    unet: UNet
    grid: DensityGrid
    published: bool = False
    drawn: bool = False

    @torch.no_grad()
    def decode(self, maps: Tensor, max_atoms: int | None = None) -> list[Decoded]:
        """Decode maps (n, 4, N, N, N); a structure of more than ``max_atoms`` atoms is no valid one."""
        return self.decode_segmented(maps, *self.unet.segment(maps, self.threshold), max_atoms)

    @property
    def threshold(self) -> float:
        """Probability of a voxel being in an ion, from which on it is taken for one."""
        return BINARY_THRESHOLD if self.published else THRESHOLD

    def decode_segmented(
        self, maps: Tensor, species: Tensor, binary: Tensor, max_atoms: int | None = None
    ) -> list[Decoded]:
        """Decode maps that the UNet has labelled: the likeliest elements and probabilities, each (n, N, N, N)."""
        inside = species * (binary >= self.threshold)
        drawn, elements, ions = (each.float().cpu().numpy() for each in (maps, inside, binary))
        return [self._decoded(*one, max_atoms) for one in zip(drawn, elements, ions, strict=True)]

    def _decoded(self, maps: np.ndarray, species: np.ndarray, binary: np.ndarray, max_atoms: int | None) -> Decoded:
        try:
            numbers, frac_coords, cell = self._sites(maps, species, binary)
        except Undecodable as error:
            return Decoded(np.empty(0, np.uint8), np.empty((0, 3)), np.zeros((3, 3)), str(error))
        return checked(numbers, frac_coords, cell, max_atoms)

    def _sites(self, maps: np.ndarray, species: np.ndarray, binary: np.ndarray) -> Sites:
        cell = cell_from_coordinates(maps[1:], self.grid)
        if self.published:
            return decode_watershed(species, binary, cell, self.grid)
        found = decode_density(maps[0], species, cell, self.grid, exact=not self.drawn)
        return found.numbers, found.frac_coords, found.cell


def checked(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, max_atoms: int | None = None) -> Decoded:
    """A crystal with what is wrong with it; one of more than ``max_atoms`` atoms is no valid one."""
    reason = why_invalid(numbers, frac_coords, cell) or ""
    if max_atoms is not None and len(numbers) > max_atoms:
        reason = f"more than {max_atoms} atoms"
    return Decoded(numbers.astype(np.uint8), frac_coords, cell, reason)
