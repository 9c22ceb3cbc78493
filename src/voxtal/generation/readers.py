"""From latent codes to cells and to the atoms of an element, by either kind of autoencoder.

What cannot be decoded comes back as its :class:`Undecodable`, so that one bad code is one bad attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from voxtal.training.separated import by_network

_IMAGES_AT_ONCE = 32
_DENSE_AT_ONCE = 256
_OF_AN_ELEMENT_AT_ONCE = 4
"""Of an element with its own network: there are few in a block of attempts, and batches are filled up."""


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


def sites_reader(
    network: nn.Module, voxels: VoxelsConfig, arithmetic: Arithmetic, own: Mapping[int, nn.Module] | None = None
) -> SitesReader:
    """For a sites autoencoder, on the device of ``arithmetic``. ``own``: those of elements that have another one."""
    if not own:
        return _sites_reader(network, voxels, arithmetic)
    readers = {
        number: _sites_reader(other, voxels, arithmetic, _OF_AN_ELEMENT_AT_ONCE) for number, other in own.items()
    }
    return _SeparatedSites(_sites_reader(network, voxels, arithmetic), readers)


def _sites_reader(
    network: nn.Module, voxels: VoxelsConfig, arithmetic: Arithmetic, at_once: int | None = None
) -> SitesReader:
    if isinstance(network, AtomsAutoencoder):
        middle = voxels.box_angstrom / 2
        placed = arithmetic.place(network)
        return _DenseSites(placed, middle, arithmetic.device, at_once or _DENSE_AT_ONCE)  # type: ignore[arg-type]
    images = _Images(_placed(network, arithmetic), arithmetic, at_once or _IMAGES_AT_ONCE)
    return _VoxelSites(images, SitesGrid.of(voxels))


def _placed(network: nn.Module, arithmetic: Arithmetic) -> VoxelAutoencoder:
    assert isinstance(network, VoxelAutoencoder)
    quick = arithmetic.device.type == "cpu" and arithmetic.precision == "float32"
    return arithmetic.place(quick_decoder(network) if quick else network)  # type: ignore[return-value]


@dataclass(frozen=True)
class _Images:
    network: VoxelAutoencoder
    arithmetic: Arithmetic
    at_once: int = _IMAGES_AT_ONCE

    def of(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Images (G, G, G), one by one; dense ones are held for a batch only."""

        def decode(batch: Tensor) -> Tensor:
            with self.arithmetic.autocast():
                return self.network.decode(batch)[:, 0]

        for images in batched(decode, codes, self.at_once, self.arithmetic.device):
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
    at_once: int

    def read(self, codes: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray | Undecodable]:
        def decode(batch: Tensor) -> Tensor:
            places, logits = self.network.decode(batch[:, :-1], batch[:, -1].long())
            return torch.cat([places.flatten(1), logits.argmax(1, keepdim=True)], dim=1)

        rows = np.concatenate([codes, numbers[:, None].astype(np.float32)], axis=1)
        for found in batched(decode, rows, self.at_once, self.device):
            for values in found.astype(np.float64):
                yield values[:-1].reshape(-1, 3)[: int(values[-1])] + self.middle


@dataclass(frozen=True)
class _SeparatedSites:
    """Each element's codes to its own reader, the others to ``combined``."""

    combined: SitesReader
    own: Mapping[int, SitesReader]

    def read(self, codes: np.ndarray, numbers: np.ndarray) -> Iterator[np.ndarray | Undecodable]:
        found: dict[int, np.ndarray | Undecodable] = {}
        for number, places in by_network(numbers, self.own):
            reader = self.own.get(number, self.combined)
            found |= zip(places.tolist(), reader.read(codes[places], numbers[places]), strict=True)
        return (found[place] for place in range(len(numbers)))


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
