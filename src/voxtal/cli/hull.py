"""``voxtal hull``: the convex hull of a run, or of any labelled structures, as JSON, table and figure."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, print_table

if TYPE_CHECKING:
    from voxtal.screening.hull import HullEntry, Role

MOST_ELEMENTS = 4
"""A hull of more elements is not computed as one unless it is asked for: each structure's own system is enough."""
MOST_ROWS = 30
"""Rows of the printed table; hull.csv has all."""


def hull(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]",
            help="Labelled structure set (.h5), the folder of one, or JSON of pymatgen entries; the run's ledger if "
            "not given.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where the files go; round-NNN/hull, or hull with INPUT."
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option(help="Chemical system, such as Co-Hf; the run's, or that of all of INPUT.")
    ] = None,
    competing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Known phases: JSON of pymatgen entries by the same method, or mp (Materials Project). Repeatable.",
        ),
    ] = None,
    competing_method: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="Method of competing entries that do not tell it.")
    ] = None,
    run: RunOption = Path("."),
    round: RoundOption = None,
    set_: SetOption = None,
) -> None:
    """Build a convex hull, draw it (two or three elements) and tell energies above it.

    Example: voxtal hull --run runs/quickstart

    Example: voxtal hull relaxed.h5 --system Co-Hf --competing known/entries.json -o hull

    Without INPUT it is the hull of the run's labels up to the given round. With INPUT no voxtal.toml is needed; where
    competing phases are given, INPUT's structures are candidates, else they are the known phases. Elements that INPUT
    lacks come from RUN/ledger.sqlite or the ledger beside INPUT. Writes hull.json, hull.csv, hull.png and hull.svg.
    """
    from voxtal.reports.hull_files import write_hull_files

    if source is None:
        built, folder = _of_run(run, round, set_, system, competing, competing_method)
    else:
        built = _of_input(source, system, competing or [], competing_method, run, set_)
        folder = Path("hull")
    written = write_hull_files(built, output or folder)
    _print_stable(built)
    print(f"{written[0]}: {len(built['entries'])} entries by {built['method'] or 'an unknown method'}")
    for path in written[1:]:
        print(path)


def _of_run(
    run: Path,
    round: int | None,
    overrides: list[str] | None,
    system: str | None,
    competing: list[str] | None,
    declared: str | None,
) -> tuple[dict[str, Any], Path]:
    """The hull of the run's ledger, and the folder of its round."""
    from voxtal.workflows.labels import hull_of_run

    opened = open_run(run, [*(overrides or ()), *([] if system is None else [f'system="{system}"'])])
    paths = opened.latest_round() if round is None else opened.round(round)
    return hull_of_run(opened, paths.index, competing or (), declared), paths.hull.parent


def _of_input(
    source: Path,
    system: str | None,
    competing: list[str],
    declared: str | None,
    run: Path,
    overrides: list[str] | None,
) -> dict[str, Any]:
    """The hull of a structure set or of entries."""
    from voxtal.errors import UserError
    from voxtal.screening.competing import MATERIALS_PROJECT, competing_entries
    from voxtal.screening.hull import build_hull, build_hulls, lowest_elements
    from voxtal.structures.phases import parse_system, system_name
    from voxtal.workflows.labels import COMPETING_FOLDER, within

    entries, method = _read(source, "candidate" if competing else "given")
    asked = parse_system(system) if system else None
    if asked:
        entries = [entry for entry in entries if entry.elements <= set(asked)]
    if not entries:
        raise UserError(f"{source} holds no labelled structures{f' of {system}' if system else ''}.")
    symbols = list(asked or sorted({symbol for entry in entries for symbol in entry.elements}))
    known = competing_entries(
        competing,
        symbols,
        method,
        declared=declared,
        thermo_type=_thermo_type(run, overrides, method) if MATERIALS_PROJECT in competing else None,
        cache=run / COMPETING_FOLDER,
    )
    together = [*known, *_elements(source, run, method, symbols), *entries]
    total = set(symbols) <= lowest_elements(together).keys() and all(isfinite(e.energy_per_atom) for e in entries)
    if not total and not competing and all(isfinite(e.formation_energy) for e in entries):
        together = entries  # without total energies of the elements: these stand at 0
    else:
        together = within(together, symbols, method, str(source))
    if asked is None and len(symbols) > MOST_ELEMENTS:
        return build_hulls(together, method)
    return build_hull(together, system_name(symbols), method)


def _read(source: Path, role: Role) -> tuple[list[HullEntry], str]:
    """The labelled entries of a set or of JSON, and their method; pure elements are known phases in any case."""
    from voxtal.errors import UserError
    from voxtal.screening.competing import hull_entries_of, method_of, read_entries
    from voxtal.structures.structure_set import StructureSet
    from voxtal.workflows.labels import set_entries, set_method

    path = source / "relaxed.h5" if source.is_dir() else source
    if path.suffix == ".json":
        found = read_entries(path)
        methods = sorted({method_of(entry) for entry in found})
        if len(methods) > 1:
            names = ", ".join(name or "an unknown method" for name in methods)
            raise UserError(
                f"{path} holds entries of {names}: energies of different methods must not meet on one hull."
            )
        method = "".join(methods)
        entries = hull_entries_of(found, method, role)
    else:
        structures = StructureSet.read(path)
        method = set_method(structures, str(path))
        entries = set_entries(structures, role, method)
    labelled = [e for e in entries if isfinite(e.energy_per_atom) or isfinite(e.formation_energy)]
    if len(labelled) < len(entries):
        print(f"{path}: {len(entries) - len(labelled)} of {len(entries)} without energies are left out")
    return [replace(e, role="given") if len(e.elements) == 1 else e for e in labelled], method


def _elements(source: Path, run: Path, method: str, symbols: list[str]) -> list[HullEntry]:
    """The elements by the same method in the run's ledger, or in the one beside the input."""
    from voxtal.workflows.labels import element_set, set_entries

    folder = source if source.is_dir() else source.parent
    for path in (run / "ledger.sqlite", folder / "ledger.sqlite"):
        if method and path.is_file() and len(elements := element_set(path, method, symbols)):
            return set_entries(elements, "element", method)
    return []


def _thermo_type(run: Path, overrides: list[str] | None, method: str) -> str | None:
    """Thermo type of the Materials Project that the labels belong to, by the calculator that made them."""
    from voxtal.calculators.registry import configured, get_calculator
    from voxtal.config import CONFIG_NAME, build_config, load_config
    from voxtal.errors import UserError
    from voxtal.screening.competing import RUN_TYPES

    if method in RUN_TYPES:
        return method
    path = run / CONFIG_NAME
    config = load_config(path, overrides or ()) if path.is_file() else build_config({}, overrides or ())
    calculator = get_calculator(configured(config.relax))
    if calculator.method.fingerprint == method:
        return calculator.thermo_type
    if method.startswith("vasp-"):
        raise UserError(
            f"The labels are by {method}, and the calculator of {path} is {calculator.method.fingerprint}: name the "
            "run that made the labels with --run, so that it can be told whether the Materials Project's match."
        )
    return None


def _print_stable(built: dict[str, Any]) -> None:
    by_id = {entry["id"]: entry for entry in built["entries"]}
    stable = [by_id[id] for id in built["hull"]]
    if built["system"] is None:
        stable = [entry for entry in stable if len(entry["composition"]) > 1]
    print_table(
        f"Stable phases of {built['system'] or 'all systems'}",
        ("formula", "space group", "E_f eV/atom", "to known hull eV/atom", "what", "round", "id"),
        [
            (
                entry["formula"],
                entry["spacegroup"],
                f"{entry['formation_energy_ev_per_atom']:.3f}",
                f"{entry['e_above_known_hull_ev_per_atom']:.3f}",
                entry["role"],
                entry["round"],
                entry["id"],
            )
            for entry in stable[:MOST_ROWS]
        ],
    )
    if len(stable) > MOST_ROWS:
        print(f"  and {len(stable) - MOST_ROWS} more in hull.csv")
