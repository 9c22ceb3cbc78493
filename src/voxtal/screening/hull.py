"""Convex hulls of formation energies: who is stable, before and after the candidates are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from voxtal.errors import UserError

Role = Literal["element", "training", "withheld", "candidate"]

ON_HULL_EV_PER_ATOM = 1e-6
"""Entries this close to the hull are on it."""


@dataclass(frozen=True)
class HullEntry:
    """One labelled structure."""

    id: str
    role: Role
    composition: Mapping[str, float]
    formation_energy: float
    """eV/atom, against the elements by the same method."""
    spacegroup: int | None = None
    round: int = 0
    source: str = ""
    method: str = ""
    """Fingerprint of the method that made the label; empty where the caller vouches for it."""


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
        ``e_above_known_hull_ev_per_atom``, negative below the known hull, and
        ``e_above_hull_ev_per_atom``), the ids on ``known_hull`` and on ``hull``, and those of each of their
        facets (``known_facets``, ``facets``): segments in a binary system, triangles in a ternary one.

    Raises
    ------
    UserError
        Labels of several methods, an entry with elements outside of the system, or two of the same id.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition, Element

    elements = system.split("-")
    _refuse_strangers(entries, elements, method)
    missing = set(elements) - {symbol for e in entries if e.role != "candidate" for symbol in _pure(e)}
    everything = [
        *(HullEntry(f"element-{s}", "element", {s: 1.0}, 0.0) for s in elements if s in missing),
        *entries,
    ]
    points = []
    for entry in everything:
        composition = Composition(entry.composition)
        points.append(PDEntry(composition, entry.formation_energy * composition.num_atoms, name=entry.id))
    known = [point for entry, point in zip(everything, points, strict=True) if entry.role != "candidate"]
    axes = [Element(s) for s in elements]
    known_diagram, diagram = PhaseDiagram(known, axes), PhaseDiagram(points, axes)
    rows = []
    for entry, point in zip(everything, points, strict=True):
        above = max(0.0, _height(diagram, point))
        row = {
            "id": entry.id,
            "role": entry.role,
            "formula": point.composition.reduced_formula,
            "composition": {s: float(entry.composition[s]) for s in elements if entry.composition.get(s)},
            "formation_energy_ev_per_atom": float(entry.formation_energy),
            "e_above_known_hull_ev_per_atom": _height(known_diagram, point),
            "e_above_hull_ev_per_atom": above,
            "on_hull": above <= ON_HULL_EV_PER_ATOM,
            "spacegroup": entry.spacegroup,
            "round": entry.round,
            "source": entry.source,
        }
        if len(elements) == 2:
            row["x"] = float(point.composition.get_atomic_fraction(axes[1]))
        rows.append(row)
    return {
        "system": system,
        "elements": elements,
        "method": method,
        "entries": rows,
        "known_hull": _stable_ids(known_diagram),
        "hull": _stable_ids(diagram),
        "known_facets": _facets(known_diagram),
        "facets": _facets(diagram),
    }


def _stable_ids(diagram: Any) -> list[str]:
    """Ids of the hull's corners, in the order of composition."""
    stable = sorted(
        diagram.stable_entries,
        key=lambda e: [e.composition.get_atomic_fraction(el) for el in diagram.elements[1:]],
    )
    return [str(entry.name) for entry in stable]


def _height(diagram: Any, point: Any) -> float:
    """Signed energy of ``point`` above the hull of ``diagram``, eV/atom."""
    return float(diagram.get_e_above_hull(point, allow_negative=True))


def _facets(diagram: Any) -> list[list[str]]:
    return [[str(diagram.qhull_entries[i].name) for i in facet] for facet in diagram.facets]


def _pure(entry: HullEntry) -> list[str]:
    present = [symbol for symbol, amount in entry.composition.items() if amount]
    return present if len(present) == 1 else []


def _refuse_strangers(entries: Sequence[HullEntry], elements: Sequence[str], method: str) -> None:
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
        strangers = sorted(set(entry.composition) - set(elements))
        if strangers:
            raise UserError(f"Entry {entry.id} holds {', '.join(strangers)}, outside of {'-'.join(elements)}.")
