"""``voxtal relax``: structures to relaxed, labelled structures, through the run's ledger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import RunOption, SetOption, open_run, pick_round, print_table, progress

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
        Path | None, typer.Option("--output", "-o", help="Structure set to write; relaxed.h5 if not given.")
    ] = None,
    calculator: Annotated[str | None, typer.Option(help="chgnet or emt; relax.calculator if not given.")] = None,
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
    selected: Annotated[
        bool,
        typer.Option(
            "--selected",
            help="The newest round's selected candidates, together with every other process that does the same; "
            "`voxtal round` collects them.",
        ),
    ] = False,
) -> None:
    """Relax structures and label them with formation energies against elements of the same method.

    Example: voxtal relax my_cifs/ -o relaxed.h5 --calculator chgnet --max-steps 60

    Example: voxtal relax --selected --run runs/co-hf

    Every calculation is a row of RUN/ledger.sqlite; what is there is not run again, so the same command
    carries on after an interruption. Failed structures are left out of the output and counted by reason.
    """
    if selected:
        _relax_selected(run, set_, workers, other_options=(source, output, calculator, max_steps, fmax))
        return
    from voxtal.calculators.base import RelaxSettings
    from voxtal.calculators.registry import get_calculator
    from voxtal.errors import UserError
    from voxtal.runs import Run, exclusive
    from voxtal.workflows.relaxation import relax_set

    config = _config(run, set_)
    paths = Run(run, config)
    chosen = calculator or config.relax.calculator
    get_calculator(chosen)  # a wrong name is told before anything is read
    structures = _read(source or paths.latest_round().structures)
    settings = RelaxSettings(
        max_steps=config.relax.label_max_steps if max_steps is None else max_steps,
        fmax_ev_per_angstrom=config.relax.fmax_ev_per_angstrom if fmax is None else fmax,
    )
    outcomes: Counter[tuple[str, str]] = Counter()
    with exclusive(run, "voxtal relax"):
        relaxed = relax_set(
            structures,
            chosen,
            settings,
            paths.ledger,
            "training",
            workers=config.relax.workers if workers is None else workers,
            on_finished=lambda row: outcomes.update([(row["status"], row["reason"])]),
            progress=progress,
        )
    _print_outcomes(outcomes, relaxed)
    if len(relaxed) == 0:
        raise UserError("No structure could be labelled; the table says why. Nothing was written.")
    written = output or Path("relaxed.h5")
    relaxed.write(written)
    print(f"{written}: {len(relaxed)} relaxed structures")


def _relax_selected(
    run: Path, overrides: list[str] | None, workers: int | None, other_options: tuple[object, ...]
) -> None:
    """Claim and relax candidates until none is left; no lock, for many processes do this at once."""
    from voxtal.errors import UserError

    if any(option is not None for option in other_options):
        raise UserError(
            "--selected takes the candidates and the relax.* settings of the run; leave INPUT, --output, "
            "--calculator, --max-steps and --fmax out, or change the settings in voxtal.toml."
        )
    opened = open_run(run, overrides)
    from voxtal.active.bootstrap import relax_settings
    from voxtal.active.rounds import selected_path
    from voxtal.structures.structure_set import StructureSet
    from voxtal.workflows.relaxation import relax_share

    paths, config = pick_round(opened, None), opened.config.relax
    if not selected_path(paths).is_file():
        raise UserError(f"No selected candidates at {selected_path(paths)}; choose them with `voxtal evaluate`.")
    candidates = StructureSet.read(selected_path(paths))
    rows = relax_share(
        candidates,
        config.calculator,
        relax_settings(opened, config.candidate_max_steps),
        opened.ledger,
        "candidate",
        round=paths.index,
        workers=config.workers if workers is None else workers,
        progress=progress,
    )
    elsewhere = len(candidates) - len(rows)
    rest = f", {elsewhere} are with other processes" if elsewhere else ""
    print(f"{len(rows)} of {len(candidates)} selected candidates are done{rest}. Next: voxtal round.")


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
