"""Voxel autoencoders: a 3D image to a short code in (-1, 1) and back.

The published networks (CCDCGAN, section Representation and Fig. 2A; constants in docs/conventions.md) and
faster ones that learn sparse images in minutes. All take and return channel-first images.
"""

from __future__ import annotations

from itertools import pairwise
from math import gcd, log2

import torch
from torch import Tensor, nn

from voxtal.errors import UserError

_GROUPS = 4
_EMPTY_VOXEL_LOGIT = -4.0
"""Bias of the fast networks' last layer: nearly every voxel is empty, so start from there."""


class VoxelAutoencoder(nn.Module):
    """An encoder and its mirror image.

    Parameters
    ----------
    encoder
        Maps images (batch, 1, G, G, G) to codes (batch, latent) before the tanh.
    decoder
        Maps codes (batch, latent) to logits (batch, 1, G, G, G).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def encode(self, images: Tensor) -> Tensor:
        """Codes (batch, latent) in (-1, 1) of images (batch, 1, G, G, G)."""
        return torch.tanh(self.encoder(images))

    def decode_logits(self, codes: Tensor) -> Tensor:
        """Logits (batch, 1, G, G, G) of the images that ``codes`` (batch, latent) stand for."""
        return self.decoder(codes)

    def decode(self, codes: Tensor) -> Tensor:
        """Images (batch, 1, G, G, G) in (0, 1) that ``codes`` (batch, latent) stand for."""
        return torch.sigmoid(self.decoder(codes).float())

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the reconstruction of ``images``."""
        return self.decoder(self.encode(images))


def paper_sites_autoencoder(grid: int, width: int, latent: int) -> VoxelAutoencoder:
    """The published sites network: convolutions of kernel 4, stride 2 down to 2^3, a dense layer to the code.

    At the published size (64, 64, 200) these are five convolutions of 64 channels.
    """
    depth = _depth(grid, smallest=2)
    flat = width * 2**3
    encoder = nn.Sequential(*_paper_down([1] + [width] * depth), nn.Flatten(), nn.Linear(flat, latent))
    decoder = nn.Sequential(
        nn.Linear(latent, flat),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (width, 2, 2, 2)),
        *_paper_up([width] * depth + [1]),
    )
    return VoxelAutoencoder(encoder, decoder)


def paper_lattice_autoencoder(grid: int, width: int, latent: int) -> VoxelAutoencoder:
    """The published lattice network: three strided convolutions, a valid one of 256 channels, dense 256 to the code."""
    depth = _depth(grid, smallest=4)
    encoder = nn.Sequential(
        *_paper_down([1] + [width] * depth),
        nn.Conv3d(width, 256, 4),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(256, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, latent),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, 256),
        nn.LeakyReLU(0.2),
        nn.Linear(256, 256),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (256, 1, 1, 1)),
        nn.ConvTranspose3d(256, width, 4),
        nn.LeakyReLU(0.2),
        *_paper_up([width] * depth + [1]),
    )
    return VoxelAutoencoder(encoder, decoder)


def fast_autoencoder(grid: int, width: int, latent: int) -> VoxelAutoencoder:
    """Channels double as the grid halves, group norm after each convolution, logits that start at "empty".

    Group norm rather than batch norm: more accurate cells, and the same on however many ranks a batch lies. Batch
    norm gets the sites right sooner, in the first half minute (``benchmarks/autoencoders.py``).
    """
    depth = _depth(grid, smallest=2)
    channels = [1] + [width * 2**i for i in range(depth)]
    flat = channels[-1] * 2**3
    down: list[nn.Module] = []
    for inner, outer in pairwise(channels):
        down += [nn.Conv3d(inner, outer, 4, 2, 1, bias=False), _group_norm(outer), nn.LeakyReLU(0.2)]
    up: list[nn.Module] = []
    mirrored = channels[:0:-1]
    for inner, outer in pairwise(mirrored):
        up += [
            nn.ConvTranspose3d(inner, outer, 4, 2, 1, bias=False),
            _group_norm(outer),
            nn.LeakyReLU(0.2),
        ]
    last = nn.ConvTranspose3d(channels[1], 1, 4, 2, 1)
    assert last.bias is not None
    nn.init.constant_(last.bias, _EMPTY_VOXEL_LOGIT)
    encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(flat, latent))
    decoder = nn.Sequential(
        nn.Linear(latent, flat, bias=False),
        nn.LayerNorm(flat),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (channels[-1], 2, 2, 2)),
        *up,
        last,
    )
    return VoxelAutoencoder(encoder, decoder)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(_GROUPS, channels), channels)


def _depth(grid: int, smallest: int) -> int:
    depth = log2(grid / smallest)
    if depth < 1 or depth != int(depth):
        raise UserError(
            f"A grid of {grid} voxels cannot be halved down to {smallest}; set voxels.sites_grid and "
            f"voxels.lattice_grid to {smallest} times a power of two."
        )
    return int(depth)


def _paper_down(channels: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(channels):
        layers += [nn.Conv3d(inner, outer, 4, 2, 1), nn.LeakyReLU(0.2)]
    return layers


def _paper_up(channels: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inner, outer in pairwise(channels):
        layers += [nn.ConvTranspose3d(inner, outer, 4, 2, 1), nn.LeakyReLU(0.2)]
    return layers[:-1]
