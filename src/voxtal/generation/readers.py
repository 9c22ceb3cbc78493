"""From latent codes to cells and to the atoms of an element, by either kind of autoencoder.

What cannot be decoded comes back as its :class:`Undecodable`, so that one bad code is one bad attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import VoxelsConfig
from voxtal.generation.batches import batched
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder
from voxtal.models.autoencoder import VoxelAutoencoder
from voxtal.models.decoding import quick_decoder
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.placement import cell_from_metric
from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.sites_decoding import decode_sites
from voxtal.training.device import Arithmetic

_IMAGES_AT_ONCE = 32
_DENSE_AT_ONCE = 256


class CellReader(Protocol):
    """Codes (n, latent) to cells (3, 3; rows, angstrom; standard orientation), one by one."""

    def read(self, codes: np.ndarray) -> Iterator[np.ndarray | Undecodable]: ...


class SitesReader(Protocol):
    """Codes (n, latent) of elements (n,) to the positions (m, 3; angstrom) of their atoms, one by one."""

    def read(self, codes: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray | Undecodable]: ...


def cell_reader(network: nn.Module, voxels: VoxelsConfig, arithmetic: Arithmetic) -> CellReader:
    """For a lattice autoencoder, on the device of ``arithmetic``."""
    if isinstance(network, CellAutoencoder):
        return _DenseCells(arithmetic.place(network), arithmetic.device)  # type: ignore[arg-type]
    return _VoxelCells(_Images(_placed(network, arithmetic), arithmetic), LatticeGrid.of(voxels))


def sites_reader(network: nn.Module, voxels: VoxelsConfig, arithmetic: Arithmetic) -> SitesReader:
    """For a sites autoencoder, on the device of ``arithmetic``."""
    if isinstance(network, AtomsAutoencoder):
        middle = voxels.box_angstrom / 2
        return _DenseSites(arithmetic.place(network), middle, arithmetic.device)  # type: ignore[arg-type]
    return _VoxelSites(_Images(_placed(network, arithmetic), arithmetic), SitesGrid.of(voxels))


def _placed(network: nn.Module, arithmetic: Arithmetic) -> VoxelAutoencoder:
    assert isinstance(network, VoxelAutoencoder)
    quick = arithmetic.device.type == "cpu" and arithmetic.precision == "float32"
    return arithmetic.place(quick_decoder(network) if quick else network)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Images:
    network: VoxelAutoencoder
    arithmetic: Arithmetic

    def of(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Images (G, G, G), one by one; dense ones are held for a batch only."""

        def decode(batch: Tensor) -> Tensor:
            with self.arithmetic.autocast():
                return self.network.decode(batch)[:, 0]

        for images in batched(decode, codes, _IMAGES_AT_ONCE, self.arithmetic.device):
            yield from images


@dataclass(frozen=True)
class _VoxelCells:
    images: _Images
    grid: LatticeGrid

    def read(self, codes: np.ndarray) -> Iterator[np.ndarray | Undecodable]:
        return (_or_reason(decode_lattice, image, self.grid) for image in self.images.of(codes))


@dataclass(frozen=True)
class _VoxelSites:
    images: _Images
    grid: SitesGrid

    def read(self, codes: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray | Undecodable]:
        return (_or_reason(_atoms, image, self.grid) for image in self.images.of(codes))


@dataclass(frozen=True)
class _DenseCells:
    network: CellAutoencoder
    device: torch.device

    def read(self, codes: np.ndarray) -> Iterator[np.ndarray | Undecodable]:
        for cells in batched(self.network.decode, codes, _DENSE_AT_ONCE, self.device):
            yield from (_or_reason(_standard, cell) for cell in cells.astype(np.float64))


@dataclass(frozen=True)
class _DenseSites:
    network: AtomsAutoencoder
    middle: float
    device: torch.device

    def read(self, codes: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray | Undecodable]:
        def decode(batch: Tensor) -> Tensor:
            places, logits = self.network.decode(batch[:, :-1], batch[:, -1].long())
            return torch.cat([places.flatten(1), logits.argmax(1, keepdim=True)], dim=1)

        rows = np.concatenate([codes, numbers[:, None].astype(np.float32)], axis=1)
        for found in batched(decode, rows, _DENSE_AT_ONCE, self.device):
            for values in found.astype(np.float64):
                yield values[:-1].reshape(-1, 3)[: int(values[-1])] + self.middle


def _standard(cell: np.ndarray) -> np.ndarray:
    """The cell as other decoders give it: edges along which the diagonal is positive."""
    try:
        return cell_from_metric(cell @ cell.T)
    except np.linalg.LinAlgError:
        raise Undecodable("the cell has no volume") from None


def _atoms(image: np.ndarray, grid: SitesGrid) -> np.ndarray:
    return decode_sites(image, grid)[0]


def _or_reason(decode: Callable[..., np.ndarray], *arguments: Any) -> np.ndarray | Undecodable:
    try:
        return decode(*arguments)
    except Undecodable as error:
        return error
