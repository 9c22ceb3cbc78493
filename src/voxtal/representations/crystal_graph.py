"""``CrystalGraph``: the square latent image of one structure (CCDCGAN's term; not a graph network's graph).

Row 0 holds the lattice code. From row 1 on stand the sites codes, element by element: component ``k`` of
element ``j`` at flat position ``latent * j + k``; an absent element is zeros. The published image is
160 x 160 for 118 elements and codes of 25 and 200 numbers (CCDCGAN, section Representation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PAPER_ELEMENTS = tuple(range(1, 119))
_SIDES = (16, 20, 32, 40, 64, 80, 128, 160, 256, 320)
"""Sides that a generator reaches by doubling 4 or 5 pixels."""


@dataclass(frozen=True)
class GraphLayout:
    """Where the codes lie in the image.

    Parameters
    ----------
    elements
        Atomic numbers that the image has room for, in the order of their codes.
    lattice_latent, sites_latent
        Lengths of the two kinds of code.
    """

    elements: tuple[int, ...]
    lattice_latent: int
    sites_latent: int

    @property
    def side(self) -> int:
        """Pixels along one edge of the image."""
        for side in _SIDES:
            if side >= self.lattice_latent and side * (side - 1) >= self._codes:
                return side
        raise ValueError(f"{len(self.elements)} elements of {self.sites_latent} numbers fit no crystal graph")

    @property
    def _codes(self) -> int:
        return len(self.elements) * self.sites_latent

    def pack(self, lattice_codes: np.ndarray, sites_codes: np.ndarray) -> np.ndarray:
        """Images (n, side, side) of codes (n, lattice_latent) and (n, elements, sites_latent)."""
        n, side = len(lattice_codes), self.side
        graphs = np.zeros((n, side * side), dtype=np.float32)
        graphs[:, : self.lattice_latent] = lattice_codes
        graphs[:, side : side + self._codes] = sites_codes.reshape(n, self._codes)
        return graphs.reshape(n, side, side)

    def unpack(self, graphs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes (n, lattice_latent) and (n, elements, sites_latent) of images (n, side, side)."""
        n, side = len(graphs), self.side
        sites_codes = graphs.reshape(n, side * side)[:, side : side + self._codes]
        return graphs[:, 0, : self.lattice_latent], sites_codes.reshape(n, len(self.elements), self.sites_latent)

    def strength(self, graphs: np.ndarray) -> np.ndarray:
        """Root mean square (n, elements) of every element's code: what tells a present element from an absent one."""
        codes = self.unpack(graphs)[1].astype(np.float32)
        return np.sqrt(np.mean(codes**2, axis=2))
