"""Cond-DFC-VAE: density map and coordinate grid to a Gaussian code and back, given a condition (ICSG3D,
doi:10.1021/acs.jcim.0c00464, Fig. 1a)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from voxtal.errors import UserError
from voxtal.models.unet import keras_batch_norm, keras_initial

_SLOPE = 0.3
"""Of the leaky ReLUs, as in the published code's library."""
_PUBLISHED_LEVELS = 4
_CODE_CHANNELS = 4


class VAE(nn.Module, ABC):
    """What the published network and ours have in common.

    Attributes
    ----------
    latent, condition
        Lengths of a code and of a condition vector.
    """

    latent: int
    condition: int

    @abstractmethod
    def encode(self, seen: Any, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (b, latent), of the codes of what the network sees of crystals."""

    @abstractmethod
    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        """Maps (b, 4, N, N, N) of codes (b, latent) and conditions (b, condition)."""


def reparameterized(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Codes (b, latent) drawn with standard normal ``noise`` (b, latent), so that gradients reach mean and variance."""
    return mean + torch.exp(0.5 * log_variance) * noise


class PaperVAE(VAE):
    """The published network: the condition is tiled over the grid and joined to the maps, and joined to the code.

    Encoder: four (conv 3, batch norm, leaky ReLU, max-pool 2) of ``width`` channels, doubling; conv 3 to 4 channels;
    dense, ReLU; mean and log-variance. Decoder: dense to 4 channels of an eighth of the grid; the convolutions in
    reverse, each but the last enlarged twofold; conv 3 to the four maps, batch norm and ReLU, as in the published code:
    neither density nor coordinates are negative.
    """

    def __init__(self, grid: int, width: int, latent: int, condition: int) -> None:
        super().__init__()
        if grid % 2**_PUBLISHED_LEVELS:
            raise UserError(f"The VAE halves a grid four times; set density.grid to a multiple of 16, not {grid}.")
        self.latent, self.condition = latent, condition
        channels = [width * 2**level for level in range(_PUBLISHED_LEVELS)]
        down: list[nn.Module] = []
        for inner, outer in pairwise([4 + condition, *channels]):
            down += [*_convolution(inner, outer), nn.MaxPool3d(2)]
        down += [nn.Conv3d(channels[-1], _CODE_CHANNELS, 3, padding=1), nn.LeakyReLU(_SLOPE), nn.Flatten()]
        down += [nn.Linear(_CODE_CHANNELS * (grid >> _PUBLISHED_LEVELS) ** 3, latent), nn.ReLU()]
        self.encoder = nn.Sequential(*down)
        self.mean, self.log_variance = nn.Linear(latent, latent), nn.Linear(latent, latent)
        base = grid >> (_PUBLISHED_LEVELS - 1)
        up: list[nn.Module] = [nn.Linear(latent + condition, _CODE_CHANNELS * base**3)]
        up += [nn.Unflatten(1, (_CODE_CHANNELS, base, base, base))]
        for level, (inner, outer) in enumerate(pairwise([_CODE_CHANNELS, *reversed(channels)])):
            up += [nn.Upsample(scale_factor=2)] if level else []
            up += _convolution(inner, outer)
        up += [nn.Conv3d(width, 4, 3, padding=1), keras_batch_norm(4), nn.ReLU()]
        self.decoder = nn.Sequential(*up)
        keras_initial(self)

    def encode(self, maps: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (b, latent), of the codes of maps (b, 4, N, N, N)."""
        tiled = condition[:, :, None, None, None].expand(-1, -1, *maps.shape[2:])
        hidden = self.encoder(torch.cat([maps, tiled], dim=1))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        return self.decoder(torch.cat([codes, condition], dim=1))


def _convolution(inner: int, outer: int) -> list[nn.Module]:
    return [nn.Conv3d(inner, outer, 3, padding=1), keras_batch_norm(outer), nn.LeakyReLU(_SLOPE)]
