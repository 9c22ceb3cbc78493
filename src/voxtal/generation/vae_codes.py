"""Crystals to latent codes of a VAE and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from voxtal.generation.decode import Decoded
from voxtal.generation.map_decoding import MapDecoder, checked
from voxtal.models.ions_vae import Ions, IonsVAE
from voxtal.models.vae import VAE
from voxtal.representations.density import Crystal, DensityGrid, coordinate_grid, encode_density


@torch.no_grad()
def encode_crystals(
    vae: VAE, crystals: Sequence[Crystal], conditions: Tensor, grid: DensityGrid
) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance, each (b, latent) float32, of crystals as their maps on ``grid`` show them.

    Parameters
    ----------
    conditions
        (b, condition), on the device that computes.
    """
    if isinstance(vae, IonsVAE):
        return vae.encode(Ions.of(crystals, conditions.device), conditions)
    channels = np.stack([_maps(crystal, grid) for crystal in crystals])
    mean, log_variance = vae.encode(torch.from_numpy(channels).to(conditions.device), conditions)
    return mean.float(), log_variance.float()


def _maps(crystal: Crystal, grid: DensityGrid) -> np.ndarray:
    """(4, N, N, N) density map and coordinate grid."""
    maps = encode_density(*crystal, grid)
    return np.concatenate([maps.density[None], coordinate_grid(maps.cell, grid)])


@torch.no_grad()
def decode_codes(
    vae: VAE, decoder: MapDecoder | None, codes: Tensor, conditions: Tensor, max_atoms: int | None = None
) -> list[Decoded]:
    """Crystals of codes (n, latent) under condition vectors (n, condition).

    A VAE that draws ions says itself what there is; maps of another one need a ``decoder``.
    """
    if isinstance(vae, IonsVAE):
        return [checked(*crystal, max_atoms) for crystal in vae.draw(codes, conditions).crystals()]
    assert decoder is not None
    return decoder.decode(vae.decode(codes, conditions).float(), max_atoms)
