"""Crystal graphs to crystals: presence of elements, cell, sites, validity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from voxtal.config import VoxelsConfig
from voxtal.models.autoencoder import VoxelAutoencoder
from voxtal.representations.assembly import assemble
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.sites_decoding import decode_sites
from voxtal.structures.validity import why_invalid
from voxtal.training.device import Arithmetic

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Decoded:
    """What a graph decodes to.

    ``reason`` is empty for a valid structure, else why there is none; the arrays are empty where nothing
    could be decoded at all.
    """

    numbers: np.ndarray
    frac_coords: np.ndarray
    cell: np.ndarray
    reason: str


@dataclass(frozen=True)
class Decoder:
    """The two decoders of a round and what they need to know.

    Attributes
    ----------
    presence_threshold
        Smallest root mean square of a present element's code.
    system
        Atomic numbers of a requested system: these are decoded whatever their codes' size, and no others.
    """

    layout: GraphLayout
    lattice: VoxelAutoencoder
    sites: VoxelAutoencoder
    voxels: VoxelsConfig
    presence_threshold: float
    arithmetic: Arithmetic
    system: frozenset[int] | None = None

    def decode(self, graphs: np.ndarray) -> list[Decoded]:
        """Decode graphs (n, side, side)."""
        lattice_codes, sites_codes = self.layout.unpack(graphs)
        present = self.present(graphs)
        graph_of, element_of = np.nonzero(present)
        cells = self._cells(lattice_codes)
        positions: list[dict[int, np.ndarray]] = [{} for _ in graphs]
        grid = SitesGrid.of(self.voxels)
        images = self._images(self.sites, sites_codes[graph_of, element_of])
        unreadable: set[int] = set()
        for graph, element, image in zip(graph_of.tolist(), element_of.tolist(), images, strict=True):
            try:
                found, _ = decode_sites(image, grid)
            except Undecodable:
                unreadable.add(graph)
                continue
            if len(found):
                positions[graph][self.layout.elements[element]] = found
        return [
            _assembled(cell, {} if graph in unreadable else sites)
            for graph, (cell, sites) in enumerate(zip(cells, positions, strict=True))
        ]

    def present(self, graphs: np.ndarray) -> np.ndarray:
        """Which elements (n, elements) the graphs hold."""
        if self.system is not None:
            wanted = np.isin(self.layout.elements, sorted(self.system))
            return np.broadcast_to(wanted, (len(graphs), len(wanted)))
        return self.layout.strength(graphs) > self.presence_threshold

    def _cells(self, codes: np.ndarray) -> list[np.ndarray | None]:
        grid = LatticeGrid.of(self.voxels)
        cells: list[np.ndarray | None] = []
        for image in self._images(self.lattice, codes):
            try:
                cells.append(decode_lattice(image, grid))
            except Undecodable:
                cells.append(None)
        return cells

    @torch.no_grad()
    def _images(self, network: VoxelAutoencoder, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Images (G, G, G), one by one; dense ones are held for a batch only."""
        for first in range(0, len(codes), _IMAGES_AT_ONCE):
            batch = np.array(codes[first : first + _IMAGES_AT_ONCE], dtype=np.float32)
            with self.arithmetic.autocast():
                images = network.decode(torch.from_numpy(batch).to(self.arithmetic.device))
            yield from images[:, 0].float().cpu().numpy()


def _assembled(cell: np.ndarray | None, positions: dict[int, np.ndarray]) -> Decoded:
    nothing = np.empty(0, np.uint8), np.empty((0, 3)), np.zeros((3, 3))
    if cell is None:
        return Decoded(*nothing, "no cell")
    if not positions:
        return Decoded(*nothing, "no sites")
    numbers, frac_coords, cell = assemble(cell, positions)
    return Decoded(numbers, frac_coords, cell, why_invalid(numbers, frac_coords, cell) or "")
