"""``voxtal evaluate --known``: judge any attempts, beside the substitution baseline, in one table."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voxtal.cli.common import pick_round, print_table, progress
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.parallel.communicator import Communicator
    from voxtal.runs import Run
    from voxtal.screening.attempts import Row
    from voxtal.structures.structure_set import StructureSet

BASELINE = "substitution"


@dataclass(frozen=True)
class Question:
    """What is to be judged, and how; ``attempts`` is the baseline's budget."""

    structures: Sequence[Path]
    known: Path
    phases: Sequence[Path]
    reference: Path | None
    output: Path
    baseline: bool
    attempts: int | None
    relax: int
    systems: Sequence[str]
    seed: int


def question(
    directory: Path,
    overrides: list[str],
    round: int | None,
    *,
    structures: list[Path],
    known: Path | None,
    phases: list[Path],
    reference: Path | None,
    output: Path | None,
    baseline: bool,
    attempts: int | None,
    relax: int,
    systems: str,
    seed: int,
) -> tuple[Question, Run]:
    """What the options ask for, and the run of the output folder: its ledger, with ``directory``'s configuration.

    Raises
    ------
    UserError
        Options that do not go together, or a system that is none.
    """
    from voxtal.config import CONFIG_NAME, build_config, load_config
    from voxtal.runs import Run
    from voxtal.structures.phases import parse_system

    if attempts is not None and not baseline:
        raise UserError("--attempts is the number of the baseline's; it belongs to --baseline substitution.")
    here = directory / CONFIG_NAME
    config = load_config(here, overrides) if here.is_file() else build_config({}, overrides)
    if known is None:
        if structures or not here.is_file():
            raise UserError("Name the known structures (the training set) with --known structures.h5.")
        paths = pick_round(Run(directory, config), round)
        structures, known = [paths.candidates], paths.structures
        output = output or paths.root / "evaluate"
    elif not structures and not baseline:
        raise UserError(
            "Name the attempts to judge with --structures generated.h5, or ask for --baseline substitution."
        )
    for path in (*structures, known, *phases, reference):
        if path is not None and not path.exists():
            raise UserError(f"There is no {path}.")
    parsed = ["-".join(parse_system(system)) for system in systems.split(",") if system.strip()]
    folder = output or Path("evaluate")
    asked = Question(structures, known, phases, reference, folder, baseline, attempts, relax, parsed, seed)
    return asked, Run(folder, config)


def evaluate_attempts(question: Question, run: Run, communicator: Communicator) -> None:
    """Write ``evaluation.json``, a table for each set, the figures, and with relaxations hulls and Table 1."""
    from voxtal.parallel.communicator import on_root
    from voxtal.runs import exclusive
    from voxtal.screening.attempts import judge_attempts

    with ExitStack() as stack:

        def begin() -> tuple[dict[str, StructureSet], StructureSet, StructureSet]:
            stack.enter_context(exclusive(question.output, "voxtal evaluate"))
            return _read(question)

        sets, known, reference = on_root(communicator, begin)
        tables = {}
        for name, attempts in sets.items():
            if communicator.rank == 0:
                typer.echo(f"{name}: {len(attempts)} attempts")
            tables[name] = judge_attempts(attempts, known, progress, communicator)
        on_root(communicator, lambda: _conclude(question, run, sets, tables, known, reference))


def _read(question: Question) -> tuple[dict[str, StructureSet], StructureSet, StructureSet]:
    """The sets of attempts by name, the known structures and the reference."""
    from voxtal.structures.substitution import substituted

    sets: dict[str, StructureSet] = {}
    for path in question.structures:
        name = path.stem if path.stem not in sets else str(path).replace("/", "_")
        sets[name] = _read_set(path, failures=True)
    known = _read_set(question.known, failures=False)
    if len(known) == 0:
        raise UserError(f"--known {question.known} holds no structures.")
    if question.baseline:
        budget = question.attempts or max((len(attempts) for attempts in sets.values()), default=0)
        if not budget:
            raise UserError("--baseline without --structures needs a number of --attempts.")
        sets[BASELINE] = substituted(known, budget, question.seed)
    for name, attempts in sets.items():
        if len(attempts) == 0:
            raise UserError(f"{name} holds no attempts.")
    return sets, known, known if question.reference is None else _read_set(question.reference, failures=False)


def _read_set(path: Path, failures: bool) -> StructureSet:
    """A structure set, or files of another program; with ``failures``, what cannot be read is an empty attempt."""
    from voxtal.structures.filters import Selection
    from voxtal.structures.importers import import_structures
    from voxtal.structures.structure_set import REASON, StructureSet

    if path.suffix == ".h5":
        found = StructureSet.read(path)
    else:
        imported = import_structures([path], selection=Selection(primitive=False, max_atoms=None, max_length=None))
        found = imported.structures
        if failures and imported.dropped:
            ids = [f"{row.id} (row {k} of those dropped)" for k, row in enumerate(imported.dropped)]
            reasons = [row.reason for row in imported.dropped]
            found = StructureSet.concatenate([found, _without_atoms(ids).with_columns(provenance={REASON: reasons})])
    if len(set(found.ids.tolist())) < len(found):
        raise UserError(f"{path} holds two structures of the same id; ids must be unique.")
    return found


def _without_atoms(ids: Sequence[str]) -> StructureSet:
    import numpy as np

    from voxtal.structures.structure_set import StructureSet

    n = len(ids)
    empty = StructureSet.from_structures([], [])
    return StructureSet(
        np.array(ids), np.zeros(n + 1, dtype=np.int64), empty.numbers, empty.frac_coords, np.zeros((n, 3, 3))
    )


def _conclude(
    question: Question,
    run: Run,
    sets: Mapping[str, StructureSet],
    tables: Mapping[str, list[Row]],
    known: StructureSet,
    reference: StructureSet,
) -> None:
    """Relax, sum up, write and print; on rank 0."""
    from voxtal.runs import sha256_of, write_json
    from voxtal.screening.attempts import write_attempts
    from voxtal.screening.summary import summarize, system_table

    figures: dict[str, Any] = {}
    for name, rows in tables.items():
        if question.relax:
            _label(question, run, name, sets[name], rows, known)
        write_attempts(question.output / f"{name}.csv", rows)
        figures[name] = summarize(rows, reference)
        figures[name]["systems"] = system_table(rows, question.systems)
        _write_system_table(question.output / f"{name}-systems.csv", figures[name]["systems"])
    files = {
        str(path): sha256_of(path)
        for path in (*question.structures, question.known, *question.phases)
        if path.is_file()
    }
    made_with = {
        "known": str(question.known),
        "n_known": len(known),
        "phases": [str(path) for path in question.phases],
        "reference": str(question.reference or question.known),
        "seed": question.seed,
        "inputs_sha256": files,
    }
    write_json(question.output / "evaluation.json", {**made_with, "sets": figures})
    _draw(question, sets, tables, known)
    print_figures(figures)
    typer.echo(f"{question.output}: evaluation.json, one CSV a set, elements and densities as PNG")


def _label(
    question: Question, run: Run, name: str, attempts: StructureSet, rows: list[Row], known: StructureSet
) -> None:
    """Relax a random sample of the new structures, and as many of each system asked for; draw redefined hulls."""
    import numpy as np

    from voxtal.reports.hull_figure import DRAWABLE_ELEMENTS
    from voxtal.reports.hull_files import write_hull_files
    from voxtal.screening.attempts import new_ones, sample
    from voxtal.structures.structure_set import StructureSet
    from voxtal.workflows.energies import energies_above_known

    new = new_ones(rows)
    sampled = sample(new, question.relax, question.seed)
    asked = [[i for i in new if rows[i]["system"] == system] for system in question.systems]
    chosen = sorted({*sampled, *(i for group in asked for i in sample(group, question.relax, question.seed))})
    competing = known
    for path in question.phases:
        more = _read_set(path, failures=False)
        competing = StructureSet.concatenate(
            [competing, more.subset(np.flatnonzero(~np.isin(more.ids, competing.ids)))]
        )
    typer.echo(f"{name}: relaxing {len(chosen)} of {len(new)} valid, unique and novel ones")
    energies = energies_above_known(attempts.subset(chosen), competing, run, progress)
    for i in chosen:
        rows[i] |= energies.labels.get(rows[i]["id"], {"relaxation": "failed"})
    for i in sampled:
        rows[i]["sampled"] = True
    folder = question.output / "hulls" / name
    shutil.rmtree(folder, ignore_errors=True)  # of another sample, or of fewer known phases
    for system in energies.redefined():
        if len(system.split("-")) in DRAWABLE_ELEMENTS:
            write_hull_files(energies.hull(system), folder / system)


def _write_system_table(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    import csv

    from voxtal.runs import atomic_path

    if table:
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


def _draw(
    question: Question,
    sets: Mapping[str, StructureSet],
    tables: Mapping[str, list[Row]],
    known: StructureSet,
) -> None:
    from voxtal.reports.element_figures import element_density_figure, periodic_table_figure
    from voxtal.screening.attempts import element_counts

    valid = {
        name: attempts.subset([i for i, row in enumerate(tables[name]) if row["valid"]])
        for name, attempts in sets.items()
    }
    counts = {name: element_counts(structures) for name, structures in valid.items()}
    known_counts = element_counts(known)
    for name in sets:
        periodic_table_figure(counts[name], known_counts, question.output / f"{name}-elements.png")
    sizes = {name: len(structures) for name, structures in valid.items()}
    element_density_figure(counts, sizes, known_counts, len(known), question.output / "element-densities.png")


_SHARES = (
    ("valid", "valid, of attempts"),
    ("compositionally_valid", "and compositionally valid (SMACT), of attempts"),
    ("unique", "valid and unique, of attempts"),
    ("novel", "valid, unique and novel (V.U.N.), of attempts"),
    ("distinct_of_valid", "V.U.N., of valid"),
    ("labelled_of_sampled", "relaxation gave an energy, of sample"),
    ("with_competing_of_labelled", "their system has known compounds, of these"),
    ("negative_ef_of_labelled", "E_f < 0 after relaxation, of these"),
    ("metastable_of_sampled", "E_hull <= 0.1 eV/atom, of sample"),
    ("stable_of_sampled", "E_hull <= 0, of sample"),
    ("sun_metastable", "S.U.N. at 0.1 eV/atom, of attempts"),
    ("sun_stable", "S.U.N. at 0, of attempts"),
)
_MEANS = (
    ("mean_abs_delta_ef_ev_per_atom", "mean |dE_f| of relaxation, eV/atom"),
    ("rmsd_angstrom", "mean RMSD to relaxed, A"),
)
_DISTANCES = (
    ("density_distance", "Wasserstein-1 of density, g/cm^3"),
    ("n_elements_distance", "Wasserstein-1 of number of elements"),
)


def print_figures(figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Print all sets side by side, then Table 1 of each."""
    sets = list(figures.values())
    rows: list[tuple[str, ...]] = [("attempts", *(str(one["attempts"]) for one in sets))]
    lines = [(key, title, share_text) for key, title in _SHARES] + [(key, title, _mean_text) for key, title in _MEANS]
    lines += [(key, title, _distance_text) for key, title in _DISTANCES]
    for key, title, text in lines:
        if any(key in one for one in sets):
            rows.append((title, *(text(one[key]) if key in one else "-" for one in sets)))
    if any("sampled" in one for one in sets):
        counts = [one.get("sampled") for one in sets]
        rows.append(("random sample of V.U.N., relaxed", *(f"{n['n']} of {n['of']}" if n else "-" for n in counts)))
    rows.append(("chemical systems of valid", *(str(one["n_systems"]) for one in sets)))
    rows.append(("elements of valid", *(str(one["n_elements"]) for one in sets)))
    print_table("Attempts (95% intervals)", ["figure", *figures], rows)
    for name, one in figures.items():
        if one["systems"]:
            _print_systems(name, one["systems"])


def _print_systems(name: str, table: Sequence[Mapping[str, Any]]) -> None:
    columns = ["system", "# gen", "# relaxed", "mean |dE_f|", "# |dE_f| < 0.2", "mean E_f", "mean E_hull"]
    rows = [
        (
            row["system"],
            row["n_generated"],
            row["n_relaxed"],
            row["mean_abs_delta_ef_ev_per_atom"],
            "-"
            if row["share_delta_ef_below_0.2"] is None
            else f"{row['n_delta_ef_below_0.2']} ({row['share_delta_ef_below_0.2']:.1%})",
            row["mean_formation_energy_ev_per_atom"],
            row["mean_e_above_hull_ev_per_atom"],
        )
        for row in table
    ]
    print_table(f"Systems, {name} (eV/atom)", columns, rows)


def share_text(one: Mapping[str, Any]) -> str:
    """A share as a person reads it: ``41/50 = 82.0% [69.2%, 90.2%]``."""
    if one["share"] is None:
        return f"0 of {one['of']}"
    interval = f"{one['share']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"
    return interval if one["n"] is None else f"{one['n']}/{one['of']} = {interval}"


def _mean_text(one: Mapping[str, Any]) -> str:
    error = "" if one["standard_error"] is None else f" +- {one['standard_error']:.3f}"
    return "-" if one["mean"] is None else f"{one['mean']:.3f}{error} (n = {one['n']})"


def _distance_text(one: Mapping[str, Any]) -> str:
    return "-" if one["wasserstein_1"] is None else f"{one['wasserstein_1']:.3f} (n = {one['n']}, {one['n_reference']})"
