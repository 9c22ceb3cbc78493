"""The order in which pymatgen's CIF parser lists sites: by Pauling electronegativity, then by name.

Kept here as data and a sort because pymatgen takes seconds to import and milliseconds to parse a CIF.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cmp_to_key

import gemmi

MAX_NUMBER = 118

_NONE = math.nan

# fmt: off
ELECTRONEGATIVITIES = (
    2.2, _NONE, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, _NONE,
    0.93, 1.31, 1.61, 1.9, 2.19, 2.58, 3.16, _NONE, 0.82, 1.0,
    1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65,
    1.81, 2.01, 2.18, 2.55, 2.96, 3.0, 0.82, 0.95, 1.22, 1.33,
    1.6, 2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78, 1.96,
    2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.1, 1.12, 1.13, 1.14,
    1.13, 1.17, 1.2, 1.2, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1,
    1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54, 2.0,
    1.62, 2.33, 2.02, 2.0, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3,
    1.5, 1.38, 1.36, 1.28, 1.3, 1.3, 1.3, 1.3, 1.3, 1.3,
    1.3, 1.3, 1.3,
) + (_NONE,) * 15
# fmt: on
"""(118,): Pauling's scale as pymatgen tabulates it, hydrogen first; NaN where there is none."""

SYMBOLS = tuple(gemmi.Element(number).name for number in range(1, MAX_NUMBER + 1))
"""(118,): hydrogen first."""


def _known_first(number: int) -> tuple[float, str]:
    value = ELECTRONEGATIVITIES[number - 1]
    return (math.inf if math.isnan(value) else value), SYMBOLS[number - 1]


_RANKS = [0] * (MAX_NUMBER + 1)
for _rank, _number in enumerate(sorted(range(1, MAX_NUMBER + 1), key=_known_first)):
    _RANKS[_number] = _rank
_FIRST_UNKNOWN = sum(not math.isnan(value) for value in ELECTRONEGATIVITIES)


def site_order(numbers: Sequence[int], names: Sequence[str] | None = None) -> list[int] | None:
    """Positions of the sites in pymatgen's order; None where they are in it already.

    Parameters
    ----------
    numbers : (n,) int
        Atomic numbers in the order of the file, symmetry expanded.
    names : (n,) str, optional
        Species as pymatgen writes them (``Fe2+``), where the file gives oxidation states.
    """
    ranks = list(map(_RANKS.__getitem__, numbers))
    in_order = sorted(ranks)
    if names is not None or in_order[-1] >= _FIRST_UNKNOWN > in_order[0]:
        return _order_of_names(numbers, names or [SYMBOLS[number - 1] for number in numbers])
    return None if ranks == in_order else sorted(range(len(ranks)), key=ranks.__getitem__)


def _order_of_names(numbers: Sequence[int], names: Sequence[str]) -> list[int]:
    """As pymatgen sorts: species grouped, electronegative ones first, and then sites by electronegativity and name.

    A site without an electronegativity (helium, neon, argon) is compared by name alone, which is no order at all, so
    that the outcome depends on the first sort and on the algorithm, which is Python's own here as there.
    """

    def compare(one: int, other: int) -> int:
        x, y = ELECTRONEGATIVITIES[numbers[one] - 1], ELECTRONEGATIVITIES[numbers[other] - 1]
        if x < y or (not x > y and names[one] < names[other]):
            return -1
        return 1

    grouped = sorted(range(len(numbers)), key=lambda i: (*_known_first(numbers[i]), names[i]), reverse=True)
    return sorted(grouped, key=cmp_to_key(compare))
