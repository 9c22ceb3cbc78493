"""How close atoms come, measured by the size that they have in their elements."""

from __future__ import annotations

from functools import cache
from math import pi
from typing import Any

import numpy as np

from voxtal.errors import UserError

MIN_CONTACT = 0.7
"""Shortest believable distance, as a share of the sum of two close-packed radii: diamond and zinc blende (0.77)
pass; molecules and atoms pressed into each other do not."""

_AVOGADRO_PER_CM3_IN_A3 = 0.602214076
_CLOSE_PACKING = pi / (3 * 2**0.5)
_NO_VOLUME = ("At", "Fr")
_LAST_WITH_VOLUME = 99


@cache
def atomic_volume(symbol: str) -> float:
    """Volume of one atom in the solid or liquid element, cubic angstrom, from its molar volume.

    Raises
    ------
    UserError
        No molar volume is known (At, Fr and the elements from Fm on).
    """
    from pymatgen.core import Element

    volume = None if symbol in _NO_VOLUME or Element(symbol).Z > _LAST_WITH_VOLUME else Element(symbol).molar_volume
    if volume is None:
        raise UserError(f"No atomic volume is known for {symbol}; leave it out of the system.")
    return float(volume) / _AVOGADRO_PER_CM3_IN_A3


def close_packed_radius(volume: float) -> float:
    """Radius, angstrom, of the spheres that have this atomic volume (cubic angstrom) when close-packed."""
    return (3 * _CLOSE_PACKING * volume / (4 * pi)) ** (1 / 3)


def too_close(structure: Any, limit: float = MIN_CONTACT) -> bool:
    """Whether two atoms of a (pymatgen) structure are closer than ``limit`` times the sum of their radii."""
    radii = np.array([close_packed_radius(atomic_volume(site.specie.symbol)) for site in structure])
    first, second, _, distances = structure.get_neighbor_list(2 * limit * radii.max())
    return bool((distances < limit * (radii[first] + radii[second])).any())
