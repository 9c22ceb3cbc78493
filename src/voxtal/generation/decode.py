"""Latent codes to crystals: cell, sites, validity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from voxtal.generation.codes import Codes, codes_of_graphs
from voxtal.generation.readers import CellReader, SitesReader
from voxtal.representations.assembly import assemble
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.representations.reasons import Undecodable
from voxtal.structures.validity import why_invalid

NO_SITES = "no sites"


@dataclass(frozen=True)
class Decoded:
    """What an attempt's codes decode to.

    ``reason`` is empty for a valid structure, else why there is none; the arrays are empty where nothing
    could be decoded at all.
    """

    numbers: np.ndarray
    frac_coords: np.ndarray
    cell: np.ndarray
    reason: str

    def structure(self) -> Any | None:
        """A pymatgen ``Structure``, or None where there is no valid one."""
        if self.reason:
            return None
        from pymatgen.core import Lattice, Structure

        return Structure(Lattice(self.cell), self.numbers.tolist(), self.frac_coords)


@dataclass(frozen=True)
class Decoder:
    """The two decoders of a round and what they need to know.

    Attributes
    ----------
    presence_threshold
        Smallest root mean square of a present element's code in a crystal graph.
    """

    layout: GraphLayout
    lattice: CellReader
    sites: SitesReader
    presence_threshold: float

    def decode(self, graphs: np.ndarray) -> list[Decoded]:
        """Decode crystal graphs (n, side, side)."""
        return self.decode_codes(codes_of_graphs(graphs, self.layout, self.presence_threshold))

    def decode_codes(self, codes: Codes, max_atoms: int | None = None) -> list[Decoded]:
        """Decode codes; a structure of more than ``max_atoms`` atoms is no valid one.

        Sites are decoded only where there is a cell.
        """
        reasons = codes.reasons.astype(object)
        cells = self._cells(codes.lattice, reasons)
        used = np.flatnonzero(reasons[codes.owner] == "")
        owners, numbers = codes.owner[used], codes.numbers[used]
        positions: list[dict[int, np.ndarray]] = [{} for _ in range(len(codes))]
        atoms = self.sites.read(codes.sites[used], numbers)
        for owner, number, found in zip(owners.tolist(), numbers.tolist(), atoms, strict=True):
            if isinstance(found, Undecodable):
                reasons[owner] = reasons[owner] or str(found)
            elif len(found):
                positions[owner][number] = found
        return [_assembled(*parts, max_atoms) for parts in zip(cells, positions, reasons.tolist(), strict=True)]

    def _cells(self, codes: np.ndarray, reasons: np.ndarray) -> np.ndarray:
        """Cells (n, 3, 3) of codes (n, latent) without a reason not to; where there is none, it gets one."""
        cells = np.zeros((len(codes), 3, 3))
        used = np.flatnonzero(reasons == "")
        for i, found in zip(used.tolist(), self.lattice.read(codes[used]), strict=True):
            if isinstance(found, Undecodable):
                reasons[i] = f"no cell: {found}"
            else:
                cells[i] = found
        return cells


def _assembled(cell: np.ndarray, positions: dict[int, np.ndarray], reason: str, max_atoms: int | None) -> Decoded:
    if not reason and not positions:
        reason = NO_SITES
    if reason:
        return Decoded(np.empty(0, np.uint8), np.empty((0, 3)), np.zeros((3, 3)), reason)
    numbers, frac_coords, cell = assemble(cell, positions)
    if max_atoms is not None and len(numbers) > max_atoms:
        reason = f"more than {max_atoms} atoms"
    return Decoded(numbers, frac_coords, cell, reason or why_invalid(numbers, frac_coords, cell) or "")
