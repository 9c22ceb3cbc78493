"""A data set's images to latent codes, by either kind of autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxtal.data.batches import densify, padded
from voxtal.data.dataset import VoxelDataset
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, in_order
from voxtal.models.build import restore
from voxtal.training.device import Arithmetic

_AT_ONCE = 64


def lattice_codes(saved: dict[str, Any], dataset: VoxelDataset, arithmetic: Arithmetic) -> np.ndarray:
    """Codes (structures, latent) of all cells."""
    network: Any = arithmetic.place(restore(saved))

    def encode(rows: np.ndarray) -> Tensor:
        if isinstance(network, CellAutoencoder):
            return network.encode(torch.from_numpy(dataset.cells(rows)).to(arithmetic.device))
        return network.encode(densify(dataset.lattice_sparse(rows), arithmetic.device, torch.float32))

    return _in_batches(encode, dataset.n_structures, saved["sizes"]["latent"])


def sites_codes(saved: dict[str, Any], dataset: VoxelDataset, arithmetic: Arithmetic) -> np.ndarray:
    """Codes (images, latent) of all sites images.

    Raises
    ------
    UserError
        An image has more atoms than the network knows.
    """
    network: Any = arithmetic.place(restore(saved))

    def encode(rows: np.ndarray) -> Tensor:
        if isinstance(network, AtomsAutoencoder):
            return _encode_atoms(network, dataset, rows, arithmetic.device)
        return network.encode(densify(dataset.sites_sparse(rows), arithmetic.device, torch.float32))

    return _in_batches(encode, dataset.n_images, saved["sizes"]["latent"])


def _encode_atoms(network: AtomsAutoencoder, dataset: VoxelDataset, rows: np.ndarray, device: torch.device) -> Tensor:
    positions, counts = padded(dataset.atoms(rows), network.atoms, dataset.settings.box_angstrom)
    there = torch.from_numpy(counts).to(device)
    ordered = in_order(torch.from_numpy(positions).to(device), there)
    numbers = torch.from_numpy(dataset.image_numbers[rows].astype(np.int64)).to(device)
    return network.encode(ordered, there, numbers)


@torch.no_grad()
def _in_batches(encode: Callable[[np.ndarray], Tensor], n: int, latent: int) -> np.ndarray:
    rows = (np.arange(first, min(first + _AT_ONCE, n)) for first in range(0, n, _AT_ONCE))
    codes = [encode(some).float().cpu().numpy() for some in rows]
    return np.concatenate([np.empty((0, latent), dtype=np.float32), *codes])
