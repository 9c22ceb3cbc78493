"""``voxtal import``: files of crystal structures to one structure set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import SECONDS_BETWEEN_LINES, RunOption, SetOption, on_terminal, print_table

if TYPE_CHECKING:
    from voxtal.config import StructuresConfig


def import_structures(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="CSV with a CIF column, CIF, POSCAR, extxyz, pymatgen JSON (also .gz), .h5, or a folder.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Structure set to write; RUN/structures.h5 if not given."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="NAME=COLUMN",
            help="Which column holds id, cif, formation_energy, ... Repeatable.",
        ),
    ] = None,
    max_atoms: Annotated[
        int | None, typer.Option(min=1, help="Most atoms in a cell; structures.max_atoms if not given.")
    ] = None,
    max_length: Annotated[
        float | None,
        typer.Option(min=0.0, help="Longest lattice constant, A; structures.max_length_angstrom if not given."),
    ] = None,
    no_filter: Annotated[bool, typer.Option("--no-filter", help="Keep every size of cell.")] = False,
    no_primitive: Annotated[bool, typer.Option("--no-primitive", help="Keep cells as they are given.")] = False,
    exclude_noble_gases: Annotated[
        bool, typer.Option("--exclude-noble-gases", help="Drop He, Ne, Ar, Kr, Xe, Rn.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; one per core if not given.")] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
) -> None:
    """Read structures from files, keep the papers' selection, and say what was dropped and why.

    Example: voxtal import mp_20.csv.gz perov_5.csv.gz my_cifs/ -o structures.h5

    Columns of the common benchmark files are known by name; name others with --column
    formation_energy=heat_all. Beside the output, *.dropped.csv lists every dropped row with its reason.
    """
    from voxtal.structures.filters import Selection
    from voxtal.structures.importers import import_structures as read_structures
    from voxtal.structures.importers import require_kept, write_dropped

    limits = structures_config(run, set_)
    selection = replace(
        Selection.of(limits),
        cell="given" if no_primitive else limits.cell,
        max_atoms=None if no_filter else max_atoms or limits.max_atoms,
        max_length=None if no_filter else limits.max_length_angstrom if max_length is None else max_length,
        exclude_noble_gases=exclude_noble_gases or limits.exclude_noble_gases,
    )
    target = output or run / "structures.h5"
    dropped_path = target.with_suffix(".dropped.csv")
    with row_counter("rows read") as count:
        result = read_structures(paths, column or (), selection, workers, count)
    write_dropped(dropped_path, result.dropped)
    dropped = [(f"dropped: {reason}", number) for reason, number in result.reasons().items()]
    print_table("Import", ("", "rows"), [("read", result.read), *dropped, ("kept", len(result.structures))])
    require_kept(result, dropped_path)
    result.structures.write(target)
    properties = ", ".join(result.structures.properties) or "no properties"
    print(f"{target}: {len(result.structures)} structures with {properties}")
    if result.dropped:
        print(f"{dropped_path}: every dropped row with its reason")


def structures_config(run: Path, overrides: list[str] | None) -> StructuresConfig:
    """The ``[structures]`` section of ``voxtal.toml`` in ``run``, or its defaults where there is no file."""
    from voxtal.config import CONFIG_NAME, build_config, load_config

    path = run / CONFIG_NAME
    config = load_config(path, overrides or ()) if path.is_file() else build_config({}, overrides or ())
    return config.structures


@contextmanager
def row_counter(what: str) -> Iterator[Callable[[int], None]]:
    """Show a growing count: a live line on a terminal, else a plain line every few seconds."""
    if on_terminal():
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,}"), TimeElapsedColumn())
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done: progress.update(task, completed=done)
        return
    last = time.monotonic()

    def show(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:,}", flush=True)

    yield show
