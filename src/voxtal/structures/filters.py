"""Which structures are kept: the papers' selection as small predicates, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from voxtal.config import StructuresConfig
from voxtal.structures.formula_classes import CUBIC_SYMPREC_ANGSTROM, is_cubic

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Atomic numbers (n,), fractional coordinates (n, 3), lattice vectors as rows (3, 3) in angstrom."""

NOBLE_GASES = frozenset({2, 10, 18, 36, 54, 86})

SYMPREC_ANGSTROM = 0.01


@dataclass(frozen=True)
class Selection:
    """CCDCGAN's selection: at most 20 atoms in the primitive cell and no lattice constant above 10 A.

    ``None`` switches a limit off. Noble gases are left out of the paper's GAN training set. ``classes`` and
    ``only_cubic`` are ICSG3D's selection, see :mod:`voxtal.structures.formula_classes`; limits are on the ``cell``.
    """

    cell: Literal["given", "primitive", "conventional"] = "primitive"
    max_atoms: int | None = 20
    max_length: float | None = 10.0
    exclude_noble_gases: bool = False
    classes: tuple[str, ...] = ()
    only_cubic: bool = True

    @classmethod
    def of(cls, config: StructuresConfig) -> Selection:
        """What a configuration asks for."""
        return cls(
            cell=config.cell,
            max_atoms=config.max_atoms,
            max_length=config.max_length_angstrom,
            exclude_noble_gases=config.exclude_noble_gases,
            classes=config.classes,
            only_cubic=config.only_cubic,
        )


def why_dropped(numbers: np.ndarray, cell: np.ndarray, selection: Selection) -> tuple[str, str] | None:
    """Reason and detail why ``selection`` drops a structure, or None where it keeps it.

    Parameters
    ----------
    numbers : (n,) int
        Atomic numbers of the cell that would be kept.
    cell : (3, 3) float
        Its lattice vectors as rows, angstrom.
    """
    if selection.max_atoms is not None and len(numbers) > selection.max_atoms:
        return f"more than {selection.max_atoms} atoms", f"{len(numbers)} atoms"
    longest = float(np.linalg.norm(cell, axis=1).max())
    if selection.max_length is not None and longest > selection.max_length:
        return f"lattice constant above {selection.max_length:g} A", f"{longest:.3f} A"
    if selection.exclude_noble_gases and not NOBLE_GASES.isdisjoint(numbers.tolist()):
        return "noble gas", ""
    return None


def primitive_cell(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> Arrays:
    """The standard primitive cell by spglib (tolerance 0.01 A); the given cell where spglib finds none.

    Coordinates are symmetrized and the cell is in the standard orientation.
    """
    return _standard_cell(numbers, frac_coords, cell, True, SYMPREC_ANGSTROM)


def conventional_cell(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> Arrays:
    """The standard conventional cell by spglib; the given cell where spglib finds none.

    A crystal that is cubic to within 0.1 A gets a cubic cell, as the Materials Project gives it; others are
    symmetrized to within 0.01 A alone.
    """
    symprec = CUBIC_SYMPREC_ANGSTROM if is_cubic(numbers, frac_coords, cell) else SYMPREC_ANGSTROM
    return _standard_cell(numbers, frac_coords, cell, False, symprec)


def _standard_cell(
    numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray, to_primitive: bool, symprec: float
) -> Arrays:
    import spglib

    crystal: Any = (cell, frac_coords, numbers)
    found = spglib.standardize_cell(crystal, to_primitive=to_primitive, no_idealize=False, symprec=symprec)
    if found is None:
        return numbers, frac_coords, cell
    lattice, positions, types = found
    return np.asarray(types), wrap(np.asarray(positions)), np.asarray(lattice)


def surely_primitive(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> bool:
    """Whether :func:`primitive_cell` keeps all atoms, told in a fraction of its time: no translation that could map
    the crystal onto itself does so to within five times its tolerance.

    Parameters
    ----------
    numbers : (n,) int
    frac_coords : (n, 3) float
    cell : (3, 3) float
        Lattice vectors as rows, angstrom.
    """
    elements, counts = np.unique(numbers, return_counts=True)
    if np.gcd.reduce(counts) == 1:
        return True
    elements = elements[np.argsort(counts)]
    rarest = frac_coords[numbers == elements[0]]
    translations = rarest[1:] - rarest[0]
    for element in elements:
        sites = frac_coords[numbers == element]
        offsets = (sites - sites[:, None]) - translations[:, None, None]
        distances = np.linalg.norm((offsets - np.rint(offsets)) @ cell, axis=-1)
        translations = translations[(distances.min(axis=-1) < 5 * SYMPREC_ANGSTROM).all(axis=-1)]
        if len(translations) == 0:
            return True
    return False


def wrap(frac_coords: np.ndarray) -> np.ndarray:
    """Fractional coordinates moved into [0, 1)."""
    wrapped = frac_coords - np.floor(frac_coords)
    return np.where(wrapped >= 1.0, 0.0, wrapped)
