"""Mean tabulated ionic radius of every element: the width of its Gaussian in a density map, the size of its ball in a
species map.

The mean over an element's oxidation states in pymatgen's table, as ICSG3D takes it (doi:10.1021/acs.jcim.0c00464,
section Methods, and its authors' code), 1.20 A where the table has none. Kept here as data because pymatgen takes
seconds to import.
"""

from __future__ import annotations

import numpy as np

from voxtal.representations.reasons import Unencodable

DEFAULT_RADIUS = 1.20
"""Angstrom, for elements without a tabulated ionic radius."""

MAX_NUMBER = 118

_NONE = float("nan")

# fmt: off
_TABULATED = np.array([
    _NONE, _NONE, 0.9, 0.59, 0.41, 0.3, 0.63, 1.26, 0.705, _NONE,
    1.16, 0.86, 0.675, 0.54, 0.55, 0.88, 0.78, _NONE, 1.52, 1.14,
    0.885, 0.8516666667, 0.7775, 0.94, 0.8775, 0.8525, 0.7683333333, 0.74, 0.82, 0.88,
    0.76, 0.77, 0.66, 1.013333333, 0.8825, _NONE, 1.66, 1.32, 1.04, 0.86,
    0.82, 0.775, 0.7416666667, 0.661, 0.745, 0.84625, 1.086666667, 1.09, 0.94, 0.83,
    0.83, 1.293333333, 1.273333333, 0.62, 1.81, 1.49, 1.172, 1.08, 1.06, 1.2765,
    1.11, 1.229, 1.1985, 1.075, 0.9815, 1.131, 1.041, 1.03, 1.095, 1.084,
    1.001, 0.85, 0.82, 0.7666666667, 0.7125, 0.673, 0.765, 0.805, 1.07, 1.245,
    1.3325, 1.1225, 1.035, 0.945, 0.76, _NONE, 1.94, 1.62, 1.26, 1.08,
    1.04, 0.99125, 1, 0.9675, 1.168333333, 1.05, 1.035, 1.0255,
] + [_NONE] * 20)
# fmt: on
"""(118,): angstrom, hydrogen first; NaN where none is tabulated."""

_RADII = np.concatenate([[_NONE], np.where(np.isnan(_TABULATED), DEFAULT_RADIUS, _TABULATED)])


def ionic_radii(numbers: np.ndarray) -> np.ndarray:
    """(n,) float64: mean ionic radius, angstrom, of the elements ``numbers`` (n,).

    Raises
    ------
    Unencodable
        There is no such element.
    """
    return np.asarray(_RADII[_checked(numbers)])


def _checked(numbers: np.ndarray) -> np.ndarray:
    checked = np.asarray(numbers).astype(np.int64)
    if len(checked) and not (checked.min() >= 1 and checked.max() <= MAX_NUMBER):
        raise Unencodable("element without a radius")
    return checked
