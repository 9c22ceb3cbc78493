"""Which column of a table is the id, the CIF and each property."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from voxtal.errors import UserError
from voxtal.structures.rows import BadRowError
from voxtal.structures.structure_set import E_ABOVE_HULL, FORMATION_ENERGY

ID = "id"
CIF = "cif"
BAND_GAP = "band_gap"

ALIASES: dict[str, tuple[str, ...]] = {
    ID: ("material_id", "id", "entry_id", "mp_id", "name"),
    CIF: ("cif", "cif_string", "structure"),
    FORMATION_ENERGY: ("formation_energy", "formation_energy_per_atom", "heat_all"),
    E_ABOVE_HULL: ("e_above_hull", "energy_above_hull"),
    BAND_GAP: ("band_gap", "dir_gap"),
}
"""voxtal's name -> what benchmark files call it, in order of preference. Energies in eV/atom, gaps in eV."""


def parse_column_options(options: Iterable[str]) -> dict[str, str]:
    """``NAME=COLUMN`` options as a dictionary.

    Raises
    ------
    UserError
        An option without a name or a column.
    """
    mapping = {}
    for option in options:
        name, _, column = (part.strip() for part in option.partition("="))
        if not name or not column:
            raise UserError(
                f"--column {option!r}: write it as NAME=COLUMN, for example --column formation_energy=heat_all."
            )
        mapping[name] = column
    return mapping


def resolve_columns(header: Iterable[str], explicit: Mapping[str, str], where: str) -> dict[str, str]:
    """voxtal's name -> column of a table, from ``explicit`` choices first and :data:`ALIASES` otherwise.

    Raises
    ------
    UserError
        An explicit column is not in the header; the message lists what is there and the nearest.
    """
    names = list(header)
    for name, column in explicit.items():
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"{where} has no column {column!r} (--column {name}={column}).{hint} "
                f"Its columns are: {', '.join(names)}."
            )
    lower = {name.lower(): name for name in reversed(names)}
    found = dict(explicit)
    for name, aliases in ALIASES.items():
        if name not in found:
            present = [lower[alias] for alias in aliases if alias in lower]
            if present and present[0] not in found.values():
                found[name] = present[0]
    return found


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Properties of a row under voxtal's names; other columns keep theirs. Id and CIF are left out."""
    used = set(columns.values())
    properties = {name: row.get(column) for name, column in columns.items() if name not in (ID, CIF)}
    return properties | {
        name.replace("/", "_"): value
        for name, value in row.items()
        if name and name not in used and name not in properties
    }


def numbers_of(properties: Mapping[str, Any]) -> tuple[dict[str, float], frozenset[str]]:
    """Numeric properties of one row (NaN where the table is empty) and the names whose value is none.

    Raises
    ------
    BadRowError
        A property that voxtal knows by name is no number; an empty one is NaN, a formation energy that is
        written as ``nan`` is not.
    """
    values, text = {}, set()
    for name, raw in properties.items():
        value = _number(raw)
        known = name in ALIASES
        if value is None and not known:
            text.add(name)
            continue
        empty = raw is None or (isinstance(raw, str) and not raw.strip())
        bad = value is None or math.isinf(value) or (name == FORMATION_ENERGY and math.isnan(value) and not empty)
        if known and bad:
            raise BadRowError(f"{name.replace('_', ' ')} not a number", f"{name} = {raw!r}")
        values[name] = float("nan") if value is None else value
    return values, frozenset(text)


def _number(raw: Any) -> float | None:
    if raw is None or (isinstance(raw, str) and not raw.strip()):
        return float("nan")
    if isinstance(raw, bool) or not (isinstance(raw, (str, int, float)) or hasattr(raw, "__float__")):
        return None
    try:
        return float(raw)
    except (TypeError, ValueError, OverflowError):
        return None
