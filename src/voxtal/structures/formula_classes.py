"""ICSG3D's three classes of crystals: cubic binaries AB, perovskites ABX3 and Heuslers ABX2 (A2BX).

As they were asked of the Materials Project (doi:10.1021/acs.jcim.0c00464, section Data Preparation, and its authors'
code): by anonymous formula and crystal system alone. So rock salt and CsCl are both AB, and every cubic ABC3 is a
perovskite.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

CLASSES: dict[str, tuple[int, ...]] = {"AB": (1, 1), "ABX3": (1, 1, 3), "Heusler": (1, 1, 2)}
"""Name of a class -> how many atoms of each element its formula has, rising."""

CUBIC_SYMPREC_ANGSTROM = 0.1
"""The tolerance with which the Materials Project tells crystal systems."""

FIRST_CUBIC_SPACE_GROUP = 195


def class_of(numbers: np.ndarray) -> str | None:
    """The class that a cell's atomic numbers (n,) have the formula of, or None. Symmetry is not looked at."""
    counts = np.sort(np.unique(numbers, return_counts=True)[1])
    reduced = tuple((counts // np.gcd.reduce(counts)).tolist())
    return next((name for name, formula in CLASSES.items() if formula == reduced), None)


def space_group_number(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> int:
    """International number by spglib to within 0.1 A; 1 where spglib finds none."""
    import spglib

    crystal: Any = (cell, frac_coords, numbers)
    found = spglib.get_symmetry_dataset(crystal, symprec=CUBIC_SYMPREC_ANGSTROM)
    return 1 if found is None else int(found.number)


def is_cubic(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> bool:
    """Whether the crystal is cubic to within 0.1 A."""
    return space_group_number(numbers, frac_coords, cell) >= FIRST_CUBIC_SPACE_GROUP


def why_of_no_class(
    numbers: np.ndarray,
    frac_coords: np.ndarray,
    cell: np.ndarray,
    classes: Collection[str],
    only_cubic: bool,
) -> tuple[str, str] | None:
    """Reason and detail why a structure is in none of ``classes``, or None where it is in one or none are asked for.

    Parameters
    ----------
    numbers : (n,) int
    frac_coords : (n, 3) float
    cell : (3, 3) float
        Lattice vectors as rows, angstrom. Any cell of the crystal will do.
    classes : names of :data:`CLASSES`
    only_cubic : bool
        As published; otherwise the formula decides alone.
    """
    if not classes:
        return None
    name = class_of(numbers)
    if name not in classes:
        return f"not of the classes {', '.join(classes)}", name or _formula(numbers)
    if only_cubic and (group := space_group_number(numbers, frac_coords, cell)) < FIRST_CUBIC_SPACE_GROUP:
        return "not cubic", f"{name}, space group {group}"
    return None


def _formula(numbers: np.ndarray) -> str:
    """Anonymous formula such as A2B3, for the list of dropped rows."""
    counts = np.sort(np.unique(numbers, return_counts=True)[1])
    counts = counts // np.gcd.reduce(counts)
    return "".join(f"{chr(65 + i)}{n if n > 1 else ''}" for i, n in enumerate(counts.tolist()))
