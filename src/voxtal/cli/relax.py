"""``voxtal relax``: structures to relaxed, labelled structures, through the run's ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtal.cli.common import RunOption, SetOption, open_run, print_table, progress

if TYPE_CHECKING:
    from voxtal.config import Config
    from voxtal.structures.structure_set import StructureSet


def relax(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="[INPUT]",
            help="Structure set (.h5), or CIF, POSCAR, extxyz, JSON, CSV, or a folder of them; "
            "the newest round's structures if not given.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Structure set (.h5), or a folder for it, CIFs, extxyz, entries and tables; relaxed.h5 if not given.",
        ),
    ] = None,
    calculator: Annotated[
        str | None, typer.Option(help="emt, chgnet, espresso, vasp; relax.calculator if not given.")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=0, help="Optimizer steps; relax.label_max_steps if not given.")
    ] = None,
    fmax: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest force, eV/A; relax.fmax_ev_per_angstrom if not given."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes, 0 for one per core; relax.workers if not given.")
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run again what has failed.")] = False,
    queue: Annotated[
        bool,
        typer.Option(
            "--queue",
            help="Work on what waits in the run's ledger and on the newest round's selected candidates, together with "
            "every other process that does the same; `voxtal round` collects the results.",
        ),
    ] = False,
) -> None:
    """Relax structures and label them with formation energies against elements of the same method.

    Example: voxtal relax my_cifs/ -o relaxed/ --calculator chgnet --max-steps 200; voxtal hull relaxed/

    Example: voxtal relax --queue --run runs/co-hf

    Every calculation is a row of RUN/ledger.sqlite; what is there is not run again, so the same command
    carries on after an interruption. Failed structures are left out of the output and counted by reason.
    """
    if queue:
        _work_on_queue(run, set_, workers, other_options=(source, output, calculator, max_steps, fmax))
        return
    from voxtal.calculators.base import RelaxSettings
    from voxtal.calculators.registry import configured, get_calculator
    from voxtal.errors import UserError
    from voxtal.runs import Run, exclusive
    from voxtal.workflows.backends import backend_of
    from voxtal.workflows.relaxation import relax_set

    config = _config(run, [*(set_ or ()), *([] if workers is None else [f"relax.workers={workers}"])])
    paths = Run(run, config)
    chosen = configured(config.relax, calculator)
    get_calculator(chosen)  # a wrong name is told before anything is read
    structures = _read(source or paths.latest_round().structures)
    settings = RelaxSettings(
        max_steps=config.relax.label_max_steps if max_steps is None else max_steps,
        fmax_ev_per_angstrom=config.relax.fmax_ev_per_angstrom if fmax is None else fmax,
    )
    rows: list[dict[str, Any]] = []
    with exclusive(run, "voxtal relax"):
        relaxed = relax_set(
            structures,
            chosen,
            settings,
            paths.ledger,
            "training",
            backend=backend_of(paths),
            retry=retry,
            on_finished=rows.append,
            progress=progress,
        )
    _print_outcomes(Counter((row["status"], row["reason"]) for row in rows), relaxed)
    if len(relaxed) == 0:
        raise UserError("No structure could be labelled; the table says why. Nothing was written.")
    written = output or Path("relaxed.h5")
    if written.suffix == ".h5":
        relaxed.write(written)
    else:
        _export(relaxed, rows, paths.ledger, written)
    print(f"{written}: {len(relaxed)} relaxed structures")


def _export(relaxed: StructureSet, rows: list[dict[str, Any]], ledger: Path, folder: Path) -> None:
    """The relaxed structures for other programs, and what became of the others."""
    import csv

    from voxtal.runs import atomic_path
    from voxtal.structures.export import export_labelled
    from voxtal.workflows.labels import element_set, symbols_of, with_e_above_hull

    elements = element_set(ledger, rows[0]["method"], symbols_of(relaxed))
    export_labelled(with_e_above_hull(relaxed), folder, elements)
    kept = set(relaxed.ids)
    with atomic_path(folder / "failed.csv") as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, ("id", "status", "reason", "attempts", "folder"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in rows if row["id"] not in kept)


def _work_on_queue(
    run: Path, overrides: list[str] | None, workers: int | None, other_options: tuple[object, ...]
) -> None:
    """Claim and relax until nothing waits; no lock, for many processes do this at once."""
    from voxtal.errors import UserError

    if any(option is not None for option in other_options):
        raise UserError(
            "--queue takes what waits and the relax.* settings of the run; leave INPUT, --output, "
            "--calculator, --max-steps and --fmax out, or change the settings in voxtal.toml."
        )
    opened = open_run(run, overrides)
    from voxtal.active.rounds import enqueue_selected
    from voxtal.ledger import Ledger
    from voxtal.workflows.local import Local

    enqueue_selected(opened, opened.latest_round())
    with Ledger(opened.ledger) as ledger:
        waiting = sum(n for (_, status), n in ledger.counts().items() if status == "waiting")
    if not waiting:
        print(f"Nothing waits in {opened.ledger}; candidates are selected by `voxtal evaluate`.")
    outcomes: Counter[str] = Counter()
    with progress("relax", waiting) as advance:

        def finished(_: str, row: dict[str, Any]) -> None:
            outcomes.update([row["status"]])
            advance(1, f"{row['id']} {row['status']}")

        config = opened.config.relax
        Local(config.workers if workers is None else workers, config.cores).work(opened.ledger, finished)
    here = ", ".join(f"{n} {status}" for status, n in outcomes.items()) or "nothing was left to do"
    print(f"Relaxed here: {here}. `voxtal status` shows the rest; next: voxtal round.")


def _config(run: Path, overrides: list[str] | None) -> Config:
    """The run's configuration, or the defaults where ``run`` has no ``voxtal.toml``."""
    from voxtal.config import CONFIG_NAME, build_config, load_config

    path = run / CONFIG_NAME
    return load_config(path, overrides or ()) if path.is_file() else build_config({}, overrides or ())


def _read(source: Path) -> StructureSet:
    from voxtal.errors import UserError
    from voxtal.structures.structure_set import StructureSet

    if source.suffix == ".h5":
        structures = StructureSet.read(source)
    else:
        from voxtal.structures.filters import Selection
        from voxtal.structures.importers import import_structures

        result = import_structures([source], selection=Selection(max_atoms=None, max_length=None))
        structures = result.structures
        for reason, n in result.reasons().items():
            print(f"{source}: {n} not read, {reason}")
    if len(structures) == 0:
        raise UserError(f"{source} holds no structures to relax.")
    return structures


def _print_outcomes(outcomes: Counter[tuple[str, str]], relaxed: StructureSet) -> None:
    order = ("converged", "unconverged", "failed")
    rows: list[tuple[str, int]] = [
        (f"{status}: {reason}" if status == "failed" else status, n)
        for (status, reason), n in sorted(outcomes.items(), key=lambda o: (order.index(o[0][0]), -o[1]))
    ]
    without_label = sum(n for (status, _), n in outcomes.items() if status != "failed") - len(relaxed)
    if without_label:
        rows.append(("of these without a label: an element has no reference energy", without_label))
    print_table("Relaxation", ("outcome", "structures"), rows)
    if len(relaxed):
        energies = relaxed.properties["formation_energy"]
        lowest = int(energies.argmin())
        formula = relaxed.structure(lowest).composition.reduced_formula
        print(f"Lowest formation energy: {energies[lowest]:.3f} eV/atom, {formula} ({relaxed.ids[lowest]})")
