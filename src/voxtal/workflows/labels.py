"""From labels, in a run's ledger or in a structure set, to the entries of hulls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.calculators.registry import configured, get_calculator
from voxtal.errors import UserError
from voxtal.ledger import Ledger
from voxtal.runs import Run
from voxtal.screening.competing import MATERIALS_PROJECT, competing_entries
from voxtal.screening.hull import HullEntry, Role, build_hull, build_hulls, lowest_elements, referenced, signed_heights
from voxtal.structures.phases import parse_system, system_name
from voxtal.structures.structure_set import (
    E_ABOVE_HULL,
    ENERGY_PER_ATOM,
    FORMATION_ENERGY,
    METHOD,
    STATUS,
    StructureSet,
)
from voxtal.structures.text import composition_of_text, structure_from_text

COMPETING_FOLDER = "competing"
"""Folder of a run for what the Materials Project answered."""


def hull_of_run(
    run: Run, up_to_round: int | None = None, sources: Sequence[str] = (), declared: str | None = None
) -> dict[str, Any]:
    """The hull of a run's labels and its competing phases; of each chemical system apart where it has no one system.

    Parameters
    ----------
    run : Run
        Its calculator's labels are taken from its ledger.
    up_to_round : int, optional
        Labels of later rounds are left out.
    sources : sequence of str
        Files of competing phases, or ``mp``; those of the configuration if none is given.
    declared : str, optional
        Method of entries that do not tell it; as configured if not given.

    Returns
    -------
    dict
        What :func:`voxtal.screening.hull.build_hull` gives, or ``build_hulls``.
    """
    calculator = get_calculator(configured(run.config.relax))
    method = calculator.method.fingerprint
    if not run.ledger.is_file():
        raise UserError(f"No ledger at {run.ledger}; run `voxtal relax` or `voxtal round` first.")
    system = parse_system(run.config.system) if run.config.system else None
    given = list(sources) or [s if s == MATERIALS_PROJECT else str(run.root / s) for s in run.config.hull.competing]
    if system is None and MATERIALS_PROJECT in given:
        raise UserError("The Materials Project is asked for one chemical system; set one, for example --system Co-Hf.")
    with Ledger(run.ledger) as ledger:
        entries = ledger_entries(ledger, method, up_to_round)
    entries += competing_entries(
        given,
        system or sorted({symbol for entry in entries for symbol in entry.elements}),
        method,
        declared=declared or run.config.hull.competing_method,
        thermo_type=calculator.thermo_type,
        cache=run.root / COMPETING_FOLDER,
    )
    if system is None:
        return build_hulls(referenced(entries, lowest_elements(entries)), method)
    return build_hull(within(entries, system, method, str(run.ledger)), system_name(system), method)


def ledger_entries(ledger: Ledger, method: str, up_to_round: int | None = None) -> list[HullEntry]:
    """Every label of ``method`` in the order in which it was made, with total energies.

    A structure that was relaxed again with other settings counts with its latest label.

    Raises
    ------
    UserError
        The ledger holds no label of this method.
    """
    rows = [row for row in ledger.calculations(method, up_to_round) if row["status"] != "failed"]
    if not rows:
        others = [name for name in ledger.methods() if name != method]
        found = f"it holds labels of {', '.join(others)}" if others else "it is empty"
        raise UserError(f"{ledger.path} has no labels of {method} ({found}); run `voxtal relax` first.")
    entries = {row["id"]: _entry_of_row(row) for row in rows}
    return list(entries.values())


def within(entries: Iterable[HullEntry], elements: Sequence[str], method: str, where: str) -> list[HullEntry]:
    """Entries of a system, with their formation energies against the lowest elements among them.

    Raises
    ------
    UserError
        An element has no energy; the message names it and ``where`` it was looked for.
    """
    inside = [entry for entry in entries if entry.elements <= set(elements)]
    references = lowest_elements(inside)
    if missing := [symbol for symbol in elements if symbol not in references]:
        raise UserError(
            f"{where} has no reference energy of {', '.join(missing)} by {method}, and a hull needs one of every "
            "element; run `voxtal relax` on structures of the whole system, which relaxes its elements too."
        )
    return referenced(inside, references)


def set_method(structures: StructureSet, where: str) -> str:
    """The one method of a set's labels, empty where it tells none.

    Raises
    ------
    UserError
        There are several.
    """
    methods = sorted(set(structures.provenance.get(METHOD, np.array([""])).tolist()))
    if len(methods) > 1:
        names = ", ".join(name or "an unknown method" for name in methods)
        raise UserError(f"{where} holds labels of {names}: energies of different methods must not meet on one hull.")
    return methods[0] if methods else ""


def set_entries(structures: StructureSet, role: Role, method: str) -> list[HullEntry]:
    """A labelled set as entries, with whatever energies it has."""
    unknown = np.full(len(structures), np.nan)
    total = structures.properties.get(ENERGY_PER_ATOM, unknown)
    formation = structures.properties.get(FORMATION_ENERGY, unknown)
    return [
        HullEntry(
            id=str(structures.ids[i]),
            role=role,
            composition=_composition(structures.arrays(i)[0]),
            formation_energy=float(formation[i]),
            energy_per_atom=float(total[i]),
            method=method,
            structure=partial(structures.structure, i),
        )
        for i in range(len(structures))
    ]


def with_e_above_hull(structures: StructureSet) -> StructureSet:
    """A labelled set with ``e_above_hull``: each structure above the hull of all of them and the elements."""
    method = set_method(structures, "The set")
    _, above = signed_heights(set_entries(structures, "given", method))
    return structures.with_columns(properties={E_ABOVE_HULL: above})


def element_set(ledger_path: Path, method: str, symbols: Iterable[str]) -> StructureSet:
    """The lowest structure of each element in a ledger, labelled; without those that it has not."""
    with Ledger(ledger_path) as ledger:
        rows = [row for row in ledger.calculations(method) if row["purpose"] == "element" and row["status"] != "failed"]
    rows.sort(key=lambda row: -row["energy_per_atom"])
    lowest = {next(iter(composition_of_text(row["initial"]))): row for row in rows}
    kept = [lowest[symbol] for symbol in sorted(lowest.keys() & set(symbols))]
    return StructureSet.from_structures(
        [structure_from_text(row["relaxed"]) for row in kept],
        [row["id"] for row in kept],
        properties={
            FORMATION_ENERGY: np.zeros(len(kept)),
            ENERGY_PER_ATOM: [row["energy_per_atom"] for row in kept],
            E_ABOVE_HULL: np.zeros(len(kept)),
        },
        provenance={METHOD: [method] * len(kept), STATUS: [row["status"] for row in kept]},
    )


def symbols_of(structures: StructureSet) -> list[str]:
    """The elements of a set, sorted by symbol."""
    from ase.data import chemical_symbols

    return sorted(chemical_symbols[z] for z in np.unique(structures.numbers))


def _entry_of_row(row: Mapping[str, Any]) -> HullEntry:
    return HullEntry(
        id=row["id"],
        role=row["purpose"],
        composition=composition_of_text(row["initial"]),
        energy_per_atom=row["energy_per_atom"],
        round=row["round"],
        method=row["method"],
        structure=partial(structure_from_text, row["relaxed"]),
    )


def _composition(numbers: np.ndarray) -> dict[str, float]:
    from ase.data import chemical_symbols

    present, counts = np.unique(numbers, return_counts=True)
    return {chemical_symbols[z]: float(n) for z, n in zip(present, counts, strict=True)}
