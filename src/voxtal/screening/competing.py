"""Competing phases: known phases from files and from the Materials Project, by the same method as the labels.

A file holds pymatgen entries (``ComputedStructureEntry``, ``ComputedEntry``) as JSON. What made an entry is told by
``voxtal_method`` in its parameters or data, else by the functional in its ``run_type``.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from voxtal.errors import UserError
from voxtal.screening.hull import HullEntry, Role
from voxtal.structures.export import VOXTAL_METHOD, dump_entries
from voxtal.structures.phases import system_name

MATERIALS_PROJECT = "mp"
"""Stands for the Materials Project in place of a file."""

RUN_TYPES = {"GGA_GGA+U": ("GGA", "GGA+U"), "R2SCAN": ("R2SCAN",)}
"""Thermo type of the Materials Project -> ``run_type`` of its entries. The mixed ``GGA_GGA+U_R2SCAN`` is none of them:
its energies depend on which other phases were asked for."""

Client = Callable[[Sequence[str], str], list[Any]]
"""Elements and thermo type to entries: how the Materials Project is asked."""


def read_entries(path: Path) -> list[Any]:
    """The pymatgen entries of a JSON file: a list, or an object whose ``entries`` is one.

    Raises
    ------
    UserError
        No such file, not JSON, or something that is no entry; the message names which.
    """
    from monty.json import MontyDecoder
    from pymatgen.entries.computed_entries import ComputedEntry, ComputedStructureEntry

    if not path.is_file():
        raise UserError(f"No entries at {path}: name a JSON file of pymatgen's ComputedStructureEntry.")
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from None
    items = tree.get("entries") if isinstance(tree, dict) else tree
    if not isinstance(items, list):
        raise UserError(
            f"{path} holds no list of entries; write one with monty's dumpfn, or `voxtal relax -o FOLDER/`."
        )
    out = []
    for number, item in enumerate(items, 1):
        try:
            if "@class" in item:
                entry = MontyDecoder().process_decoded(item)
            else:
                entry = (ComputedStructureEntry if "structure" in item else ComputedEntry).from_dict(item)
            if not isinstance(entry, ComputedEntry):
                raise TypeError(f"a {type(entry).__name__}")
        except Exception as error:  # whatever a broken entry leads to
            raise UserError(f"{path}: item {number} is no ComputedEntry ({type(error).__name__}: {error}).") from None
        out.append(entry)
    return out


def method_of(entry: Any) -> str:
    """Fingerprint in the entry, else the thermo type that its ``run_type`` belongs to, else empty."""
    for place in (entry.parameters or {}, entry.data or {}):
        if place.get(VOXTAL_METHOD):
            return str(place[VOXTAL_METHOD])
    run_type = (entry.parameters or {}).get("run_type") or (entry.data or {}).get("run_type") or ""
    name = str(getattr(run_type, "value", run_type)).upper().replace("_U", "+U")
    return next((thermo_type for thermo_type, names in RUN_TYPES.items() if name in names), "")


def hull_entries_of(entries: Iterable[Any], method: str, role: Role, prefix: str = "") -> list[HullEntry]:
    """pymatgen entries as entries of a hull, total energies with their corrections; ids are made unique."""
    out: list[HullEntry] = []
    seen: Counter[str] = Counter()
    for number, entry in enumerate(entries, 1):
        name = f"{prefix}{entry.entry_id or number}"
        seen[name] += 1
        composition = entry.composition.element_composition
        has_structure = getattr(entry, "structure", None) is not None
        out.append(
            HullEntry(
                id=name if seen[name] == 1 else f"{name}-{seen[name]}",
                role=role,
                composition={element.symbol: float(amount) for element, amount in composition.items()},
                energy_per_atom=float(entry.energy_per_atom),
                method=method,
                structure=partial(getattr, entry, "structure") if has_structure else None,
            )
        )
    return out


def competing_entries(
    sources: Sequence[str],
    elements: Sequence[str],
    method: str,
    *,
    declared: str | None = None,
    thermo_type: str | None = None,
    cache: Path = Path("competing"),
    client: Client | None = None,
) -> list[HullEntry]:
    """Competing phases within a system from files, and from the Materials Project where ``mp`` is among them.

    Parameters
    ----------
    sources : sequence of str
        JSON files of entries, or ``mp``.
    elements : sequence of str
        Phases with other elements are left out.
    method : str
        Fingerprint of the labels' method.
    declared : str, optional
        What the user says of entries that do not tell their method.
    thermo_type : str, optional
        Thermo type of the Materials Project whose energies are those of the method; none where there is none.
    cache : Path
        Folder for what the Materials Project answered; it is asked once.
    client : callable, optional
        How it is asked; by ``mp-api`` if not given.

    Raises
    ------
    UserError
        Entries of another method, or of one that nobody has told.
    """
    out: list[HullEntry] = []
    for source in sources:
        if source == MATERIALS_PROJECT:
            found = materials_project(elements, method, thermo_type, cache, client)
        else:
            found = read_entries(Path(source))
        inside = [e for e in found if {element.symbol for element in e.composition.elements} <= set(elements)]
        if source != MATERIALS_PROJECT:
            _refuse_others(inside, source, method, declared, thermo_type)
        out += inside
    return hull_entries_of(out, method, "competing", prefix="competing-")


def materials_project(
    elements: Sequence[str], method: str, thermo_type: str | None, cache: Path, client: Client | None = None
) -> list[Any]:
    """All entries of a system in the Materials Project by one thermo type, from ``cache`` once they are there.

    Raises
    ------
    UserError
        The method is none of the Materials Project's, or it cannot be asked from here.
    """
    if thermo_type not in RUN_TYPES:
        raise UserError(
            f"The labels are by {method}, and the Materials Project's energies are by VASP with its own settings: on "
            "one hull the difference of the methods would read as stability. Relax the competing phases with the "
            "same calculator (`voxtal import`, then `voxtal relax -o FOLDER/`) and give FOLDER/entries.json instead."
        )
    path = cache / f"{thermo_type}-{system_name(elements)}.json"
    if not path.is_file():
        entries = (client or _ask)(sorted(elements), thermo_type)
        others = sorted({method_of(entry) for entry in entries} - {thermo_type, ""})
        if others:
            raise UserError(f"The Materials Project gave entries of {', '.join(others)} besides {thermo_type}.")
        dump_entries(entries, path)
    return read_entries(path)


def _ask(elements: Sequence[str], thermo_type: str) -> list[Any]:
    if not (os.environ.get("MP_API_KEY") or os.environ.get("PMG_MAPI_KEY")):
        raise UserError(
            "The Materials Project needs a key: set MP_API_KEY (https://materialsproject.org/api). On a node without "
            "a network, run `voxtal hull` once where there is one: the answer is kept in the run."
        )
    try:
        from mp_api.client import MPRester
    except ImportError as error:
        raise UserError(f'The Materials Project is asked by mp-api: pip install "voxtal[mp]" ({error}).') from None
    try:
        with MPRester() as rester:
            # By default it would mix GGA, GGA+U and r2SCAN.
            found = rester.get_entries_in_chemsys(list(elements), additional_criteria={"thermo_types": [thermo_type]})
    except Exception as error:  # its own, requests' and urllib's
        raise UserError(
            f"The Materials Project could not be asked for {system_name(elements)} ({type(error).__name__}: {error}); "
            "run `voxtal hull` once where there is a network: the answer is kept in the run."
        ) from None
    return list(found)


def _refuse_others(
    entries: Sequence[Any], source: str, method: str, declared: str | None, thermo_type: str | None
) -> None:
    same = {method, thermo_type} - {None}
    found = Counter(method_of(entry) or declared or "" for entry in entries)
    others = sorted(set(found) - same - {""})
    if others:
        told = ", ".join(f"{found[name]} by {name}" for name in others)
        raise UserError(
            f"{source}: of its {len(entries)} entries in this system {told}, and the labels are by {method}: formation "
            "energies of different methods must not meet on one hull. Relax the competing phases with the calculator "
            "that made the labels, or take entries that it made."
        )
    if found[""]:
        raise UserError(
            f"{source}: {found['']} of its {len(entries)} entries in this system do not say by which method they are. "
            f"If they are by the labels' own, say so: --competing-method {method}"
        )
