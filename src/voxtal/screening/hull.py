"""Convex hulls of formation energies: who is stable, before and after the candidates are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np

from voxtal.errors import UserError
from voxtal.screening.lower_hull import heights, lower_hull
from voxtal.structures.phases import PHASE_SYMPREC_ANGSTROM, with_spacegroup

Role = Literal["element", "training", "withheld", "competing", "given", "candidate"]
"""What an entry is; every role but ``candidate`` is known. ``given``: of an input that is no run."""

ON_HULL_EV_PER_ATOM = 1e-6
"""Entries this close to the hull are on it."""

MOST_SPACE_GROUPS = 500
"""Candidates, lowest above the hull first, whose space group is told; finding one takes milliseconds."""


@dataclass(frozen=True)
class HullEntry:
    """One labelled structure."""

    id: str
    role: Role
    composition: Mapping[str, float]
    formation_energy: float = np.nan
    """eV/atom, against the elements by the same method; NaN until :func:`referenced` has computed it."""
    energy_per_atom: float = np.nan
    """eV/atom, by the method; NaN where only the formation energy is known."""
    formation_energy_before: float = np.nan
    """eV/atom, before relaxation; NaN where it is not known."""
    round: int = 0
    source: str = ""
    method: str = ""
    """Fingerprint of the method that made the label; empty where the caller vouches for it."""
    structure: Callable[[], Any] | None = None
    """Makes the relaxed structure; called for few entries only."""
    same_as: str = ""
    """Id of the known phase that a candidate has relaxed into, where that was looked for."""

    @cached_property
    def spacegroup(self) -> int | None:
        """International number at 0.1 A; none without a structure."""
        return None if self.structure is None else with_spacegroup(self.structure(), PHASE_SYMPREC_ANGSTROM)

    @property
    def elements(self) -> frozenset[str]:
        return frozenset(symbol for symbol, amount in self.composition.items() if amount)


def lowest_elements(entries: Iterable[HullEntry]) -> dict[str, float]:
    """Energy of each element that all formation energies are against, eV/atom.

    The lowest of its entries with role ``element`` or ``competing``; of the other known ones where it has none.
    """
    references: dict[str, tuple[bool, float]] = {}
    for entry in entries:
        if len(entry.elements) == 1 and entry.role != "candidate" and np.isfinite(entry.energy_per_atom):
            (symbol,) = entry.elements
            found = (entry.role not in ("element", "competing"), entry.energy_per_atom)
            references[symbol] = min(found, references.get(symbol, found))
    return {symbol: energy for symbol, (_, energy) in references.items()}


def referenced(entries: Sequence[HullEntry], references: Mapping[str, float]) -> list[HullEntry]:
    """Entries with their formation energies against ``references``; those with another element are left out."""
    out = []
    for entry in entries:
        if entry.elements <= references.keys():
            total = sum(entry.composition.values())
            against = sum(references[symbol] * amount for symbol, amount in entry.composition.items() if amount) / total
            out.append(replace(entry, formation_energy=entry.energy_per_atom - against))
    return out


def build_hull(entries: Sequence[HullEntry], system: str, method: str) -> dict[str, Any]:
    """Hull of all entries, and of the known ones (every role but ``candidate``).

    Parameters
    ----------
    entries : sequence of HullEntry
        Labels of one method, elements within ``system``. Where an element has no entry it stands at 0.
    system : str
        Chemical system, such as ``Co-Hf``; the x axis is the fraction of its second element.
    method : str
        Fingerprint of the method.

    Returns
    -------
    dict
        JSON-able: ``system``, ``elements``, ``method``, ``entries`` (each with
        ``e_above_known_hull_ev_per_atom``, negative below the known hull, ``e_above_hull_ev_per_atom``, and
        ``new_phase``, as of :func:`new_phases`), the ids on ``known_hull`` and on ``hull``, and those of each of their
        facets (``known_facets``, ``facets``): segments in a binary system, triangles in a ternary one.

    Raises
    ------
    UserError
        Labels of several methods, an entry with elements outside of the system, or two of the same id.
    """
    elements = system.split("-")
    _refuse_strangers(entries, method)
    for entry in entries:
        if strangers := sorted(set(entry.composition) - set(elements)):
            raise UserError(f"Entry {entry.id} holds {', '.join(strangers)}, outside of {system}.")
    everything = [*_elements_at_zero(entries, elements), *entries]
    fractions, energies = _table(everything, elements)
    known_facets, facets = _two_hulls(everything, fractions, energies)
    above_known, above = (heights(fractions, energies, some) for some in (known_facets, facets))
    corners, known_corners = (_in_order(some, fractions) for some in (facets, known_facets))
    ids = np.array([entry.id for entry in everything], dtype=object)
    rows = _rows(everything, above_known, above, {*corners, *known_corners})
    if len(elements) == 2:
        for row, fraction in zip(rows, fractions[:, 1], strict=True):
            row["x"] = float(fraction)
    return {
        "system": system,
        "elements": elements,
        "method": method,
        "entries": rows,
        "known_hull": ids[known_corners].tolist(),
        "hull": ids[corners].tolist(),
        "known_facets": ids[known_facets].tolist(),
        "facets": ids[facets].tolist(),
    }


def build_hulls(entries: Sequence[HullEntry], method: str) -> dict[str, Any]:
    """As :func:`build_hull` for entries of many systems, each above the hull of its own elements: no facets.

    Raises
    ------
    UserError
        Labels of several methods, or two of the same id.
    """
    _refuse_strangers(entries, method)
    above_known, above = signed_heights(entries)
    stable = set(np.flatnonzero(above <= ON_HULL_EV_PER_ATOM).tolist())
    return {
        "system": None,
        "elements": sorted({symbol for entry in entries for symbol in entry.elements}),
        "method": method,
        "entries": _rows(entries, above_known, above, stable),
        "hull": [entries[i].id for i in sorted(stable)],
    }


def signed_heights(entries: Sequence[HullEntry]) -> tuple[np.ndarray, np.ndarray]:
    """Energies above the hull of each entry's own chemical system, from all entries of that and its subsystems.

    Returns
    -------
    above_known, above : ndarray
        eV/atom, above the hull of the known entries (negative below it), and above that of all.
    """
    members: dict[frozenset[str], list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        members[entry.elements].append(i)
    above_known, above = np.empty(len(entries)), np.empty(len(entries))
    for system, own in members.items():
        elements = sorted(system)
        others = [i for subsystem in _subsystems(elements) if subsystem != system for i in members.get(subsystem, ())]
        some = [entries[i] for i in (*own, *others)]
        everything = [*some, *_elements_at_zero(some, elements)]
        fractions, energies = _table(everything, elements)
        known_facets, facets = _two_hulls(everything, fractions, energies)
        wanted = np.arange(len(own))
        above_known[own] = heights(fractions, energies, known_facets, wanted)
        above[own] = above_known[own] if facets is known_facets else heights(fractions, energies, facets, wanted)
    return above_known, np.maximum(0.0, above)


def new_phases(entries: Sequence[HullEntry], above_known: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Which entries are new phases: candidates on the hull, below that of the known, that are none of the known.

    Parameters
    ----------
    entries : sequence of HullEntry
        n entries.
    above_known, above : ndarray, (n,)
        Energies above both hulls, as of :func:`signed_heights`.

    Returns
    -------
    ndarray of bool, (n,)
    """
    candidate = np.array([entry.role == "candidate" and not entry.same_as for entry in entries], dtype=bool)
    return candidate & (above <= ON_HULL_EV_PER_ATOM) & (above_known < -ON_HULL_EV_PER_ATOM)


def _two_hulls(
    entries: Sequence[HullEntry], fractions: np.ndarray, energies: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Facets of the hull of the known entries, and of that hull with the candidates."""
    candidate = np.array([entry.role == "candidate" for entry in entries])
    known_facets = lower_hull(fractions, energies, np.flatnonzero(~candidate))
    if not candidate.any():
        return known_facets, known_facets
    grown = np.union1d(known_facets, np.flatnonzero(candidate))
    return known_facets, lower_hull(fractions, energies, grown)


def _table(entries: Sequence[HullEntry], elements: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Fractions of the elements (n, k) and formation energies (n,)."""
    amounts = np.array([[entry.composition.get(symbol, 0.0) for symbol in elements] for entry in entries], dtype=float)
    energies = np.array([entry.formation_energy for entry in entries], dtype=float)
    return amounts / amounts.sum(axis=1, keepdims=True), energies


def _elements_at_zero(entries: Sequence[HullEntry], elements: Sequence[str]) -> list[HullEntry]:
    """An entry for each element without a known one as low: formation energies are against it, so it stands at 0."""
    low = (e for e in entries if e.role != "candidate" and e.formation_energy <= ON_HULL_EV_PER_ATOM)
    there = {symbol for e in low if len(e.elements) == 1 for symbol in e.elements}
    return [HullEntry(f"element-{s}", "element", {s: 1.0}, 0.0) for s in elements if s not in there]


def _subsystems(elements: Sequence[str]) -> Iterator[frozenset[str]]:
    for size in range(1, len(elements) + 1):
        yield from map(frozenset, combinations(elements, size))


def _in_order(facets: np.ndarray, fractions: np.ndarray) -> list[int]:
    """Rows of the hull's corners, in the order of composition."""
    return sorted(np.unique(facets).tolist(), key=lambda row: fractions[row, 1:].tolist())


def _rows(
    entries: Sequence[HullEntry], above_known: np.ndarray, above: np.ndarray, corners: set[int]
) -> list[dict[str, Any]]:
    candidates = [i for i in np.argsort(above, kind="stable").tolist() if entries[i].role == "candidate"]
    told = corners | set(candidates[:MOST_SPACE_GROUPS])
    new = new_phases(entries, above_known, above)
    return [
        {
            "id": entry.id,
            "role": entry.role,
            "formula": _formula(tuple(entry.composition.items())),
            "composition": {s: float(n) for s, n in sorted(entry.composition.items()) if n},
            "formation_energy_ev_per_atom": float(entry.formation_energy),
            "formation_energy_before_ev_per_atom": _known(entry.formation_energy_before),
            "e_above_known_hull_ev_per_atom": float(above_known[i]),
            "e_above_hull_ev_per_atom": max(0.0, float(above[i])),
            "on_hull": bool(above[i] <= ON_HULL_EV_PER_ATOM),
            "new_phase": bool(new[i]),
            "same_as": entry.same_as,
            "spacegroup": entry.spacegroup if i in told else None,
            "round": entry.round,
            "source": entry.source,
        }
        for i, entry in enumerate(entries)
    ]


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@lru_cache(maxsize=100_000)
def _formula(composition: tuple[tuple[str, float], ...]) -> str:
    from pymatgen.core import Composition

    return str(Composition(dict(composition)).reduced_formula)


def _refuse_strangers(entries: Sequence[HullEntry], method: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise UserError(f"Two entries of the hull are called {entry.id}; ids must be unique.")
        seen.add(entry.id)
        if entry.method not in ("", method):
            raise UserError(
                f"Entry {entry.id} was labelled by {entry.method} and the hull is of {method}: formation "
                "energies of different methods must not meet on one hull."
            )
