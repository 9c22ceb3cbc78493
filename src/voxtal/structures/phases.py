"""Names of what is in a crystal: chemical systems (``Co-Hf``) and phases (``Co2Hf 227``)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from voxtal.errors import UserError

_PHASE = re.compile(r"\s*([A-Za-z0-9.()]+)\s+(\d{1,3})\s*")
_LAST_SPACE_GROUP = 230
PHASE_SYMPREC_ANGSTROM = 0.1
"""spglib's tolerance for telling a phase; wide enough for a relaxed structure."""


def parse_system(system: str) -> tuple[str, ...]:
    """The elements of a chemical system such as ``Co-Hf``, sorted by symbol.

    Raises
    ------
    UserError
        No element, an unknown one or the same one twice.
    """
    from pymatgen.core import Element

    symbols = [part.strip() for part in system.split("-")]
    known = [element.symbol for element in Element if element.symbol not in ("D", "T")]
    for symbol in symbols:
        if symbol not in known:
            near = difflib.get_close_matches(symbol.capitalize(), known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{system!r}: {symbol!r} is no element.{hint} Write a system as Co-Hf.")
    if len(set(symbols)) != len(symbols):
        raise UserError(f"{system!r} names an element twice. Write a system as Co-Hf.")
    return tuple(sorted(symbols))


def system_name(symbols: Iterable[str]) -> str:
    """The chemical system of these elements, sorted by symbol: ``Co-Hf``."""
    return "-".join(sorted(symbols))


def parse_phase(phase: str) -> tuple[str, int]:
    """Reduced formula and space group number of a phase such as ``Co2Hf 227``.

    Raises
    ------
    UserError
        Not a formula and a number from 1 to 230.
    """
    from pymatgen.core import Composition

    advice = f"Phase {phase!r}: write it as a formula and a space group number, for example 'Co2Hf 227'."
    found = _PHASE.fullmatch(phase)
    if found is None or not 1 <= int(found[2]) <= _LAST_SPACE_GROUP:
        raise UserError(advice)
    try:
        composition = Composition(found[1], strict=True)
    except ValueError as error:
        raise UserError(f"{advice} ({error})") from None
    return composition.reduced_formula, int(found[2])


def with_spacegroup(structure: Any, symprec: float = 0.01) -> int:
    """International space group number by spglib at ``symprec`` angstrom; 1 where spglib finds none."""
    import spglib

    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = spglib.get_spacegroup(cell, symprec=symprec)
    return 1 if found is None else int(found.split("(")[1].rstrip(")"))


def matches_phase(structure: Any, phase: str) -> bool:
    """Whether ``structure`` is the phase: same reduced formula, and space group at 0.1 A.

    Raises
    ------
    UserError
        ``phase`` is malformed.
    """
    formula, number = parse_phase(phase)
    if structure.composition.element_composition.reduced_formula != formula:
        return False
    return with_spacegroup(structure, PHASE_SYMPREC_ANGSTROM) == number
