"""Generator and discriminator of crystal graphs (CCDCGAN, section GAN, Fig. 3A and B)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class PaperGenerator(nn.Module):
    """The published generator: a dense layer, then (upsample x2, conv 3, batch norm, ReLU), conv 3, tanh.

    At side 160, width 128 and noise 800: 128 x 5 x 5 and five levels of 128, 64, 32, 16, 8 channels.
    """

    def __init__(self, side: int, width: int, noise: int) -> None:
        super().__init__()
        base, depth = _levels(side)
        self.noise = noise
        channels = [width] + [max(width >> i, 1) for i in range(depth)]
        layers: list[nn.Module] = [nn.Linear(noise, width * base * base), nn.ReLU()]
        layers += [nn.Unflatten(1, (width, base, base))]
        for inner, outer in pairwise(channels):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(inner, outer, 3, padding=1)]
            layers += [nn.BatchNorm2d(outer), nn.ReLU()]
        layers += [nn.Conv2d(channels[-1], 1, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        """Graphs (batch, side, side) in (-1, 1) of Gaussian ``noise`` (batch, noise)."""
        return self.layers(noise).squeeze(1)


class PaperDiscriminator(nn.Module):
    """The published discriminator: strided convolutions of 8 to 512 channels, a stride-1 one of 512, dense.

    Returns logits; their sigmoid is the probability of "generated" (D -> 0 for original, eq. 1).
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*published_convolutions(side), nn.LazyLinear(1))
        with torch.no_grad():
            self.layers.eval()(torch.zeros(1, 1, side, side))
            self.layers.train()

    def forward(self, graphs: Tensor) -> Tensor:
        """Logits (batch,) of graphs (batch, side, side)."""
        return self.layers(graphs.unsqueeze(1)).squeeze(1)


def published_convolutions(side: int) -> list[nn.Module]:
    """The convolutional stack that the published discriminator and constraint share, flattened at its end."""
    layers: list[nn.Module] = []
    channels = [1, *(8 << i for i in range(7))]
    for inner, outer in pairwise(channels):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(0.25)]
    layers += [nn.Conv2d(512, 512, 3, 1, 1), nn.LeakyReLU(0.2), nn.Dropout(0.25), nn.Flatten()]
    return layers


def _levels(side: int) -> tuple[int, int]:
    """Smallest image (4 or 5 pixels wide) and number of doublings that give ``side``."""
    depth = 0
    while side % 2 == 0 and side > 5:
        side, depth = side // 2, depth + 1
    if side not in (4, 5):
        raise ValueError("a crystal graph's side must be 4 or 5 times a power of two")
    return side, depth


class DenseGenerator(nn.Module):
    """Residual dense layers over the codes: neighbouring pixels of a crystal graph mean nothing to each other,
    so nothing is gained by convolving them, and a dense network learns a small set in a minute."""

    def __init__(self, side: int, width: int, noise: int) -> None:
        super().__init__()
        self.noise = noise
        self.layers = nn.Sequential(
            nn.Linear(noise, width),
            _NormedResidual(width),
            _NormedResidual(width),
            nn.LayerNorm(width),
            nn.SiLU(),
            nn.Linear(width, side * side),
            nn.Tanh(),
            nn.Unflatten(1, (side, side)),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """Graphs (batch, side, side) in (-1, 1) of Gaussian ``noise`` (batch, noise)."""
        return self.layers(noise)


class DenseDiscriminator(nn.Module):
    """Residual dense layers without normalisation, as the gradient penalties of the relativistic loss need it."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(side * side, width),
            _Residual(width),
            _Residual(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, graphs: Tensor) -> Tensor:
        """Logits (batch,) of graphs (batch, side, side); high means generated (D -> 0 for original)."""
        return self.layers(graphs).squeeze(1)


class _NormedResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.3 * self.layers(x)
