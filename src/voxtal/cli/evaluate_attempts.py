"""``voxtal evaluate --known``: judge any attempts, beside the substitution baseline, in one table."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voxtal.cli.common import pick_round, progress
from voxtal.cli.evaluation_tables import print_beside_paper, print_figures
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.parallel.communicator import Communicator
    from voxtal.runs import Run
    from voxtal.screening.attempts import Row
    from voxtal.structures.structure_set import StructureSet
    from voxtal.workflows.energies import Energies

BASELINE = "substitution"
MOST_PANELS = 12
"""Of the sheet of hulls where no systems are named."""


@dataclass(frozen=True)
class Question:
    """The options of attempts, as they were given (``voxtal evaluate --help``)."""

    structures: tuple[Path, ...] = ()
    known: Path | None = None
    phases: tuple[Path, ...] = ()
    reference: Path | None = None
    output: Path | None = None
    relax: int = 0
    systems: str = ""
    baseline: bool = False
    attempts: int | None = None
    seed: int = 0

    def asked(self) -> bool:
        """Whether anything is asked of attempts."""
        return self != Question(seed=self.seed)


@dataclass(frozen=True)
class Task:
    """A question whose options go together: files that are there, systems that exist."""

    question: Question
    structures: tuple[Path, ...]
    known: Path
    reference: Path
    systems: tuple[str, ...]
    models: dict[str, Any]
    """Figures of the round's models, where the attempts are a round's; they belong to the first set."""
    run: Run
    """Of the output folder: its ledger, with the configuration of ``--run``."""

    @property
    def inputs(self) -> list[Path]:
        return [*self.structures, self.known, *self.question.phases]


@dataclass(frozen=True)
class Inputs:
    """What the files hold: sets of attempts by name; what is known, for novelty, hulls and distributions."""

    sets: dict[str, StructureSet]
    known: StructureSet
    phases: StructureSet
    reference: StructureSet


def task_of(question: Question, directory: Path, overrides: list[str], round: int | None) -> Task:
    """What ``question`` asks for, with the configuration and, where no files are named, the round of ``directory``.

    Raises
    ------
    UserError
        Options that do not go together, or a system that is none.
    """
    from voxtal.config import CONFIG_NAME, build_config, load_config
    from voxtal.runs import Run
    from voxtal.structures.phases import parse_system, system_name

    if question.attempts is not None and not question.baseline:
        raise UserError("--attempts is the number of the baseline's; it belongs to --baseline substitution.")
    here = directory / CONFIG_NAME
    config = load_config(here, overrides) if here.is_file() else build_config({}, overrides)
    structures, known, folder, models = question.structures, question.known, Path("evaluate"), {}
    if known is None:
        if structures or not here.is_file():
            raise UserError("Name the known structures (the training set) with --known structures.h5.")
        paths = pick_round(Run(directory, config), round)
        structures, known, folder = (paths.candidates,), paths.structures, paths.root / "evaluate"
        models = _models(paths.evaluation)
    elif not structures and not question.baseline:
        raise UserError(
            "Name the attempts to judge with --structures generated.h5, or ask for --baseline substitution."
        )
    reference = question.reference or known
    for path in (*structures, known, *question.phases, reference):
        if not path.exists():
            raise UserError(f"There is no {path}.")
    systems = tuple(system_name(parse_system(system)) for system in question.systems.split(",") if system.strip())
    return Task(question, structures, known, reference, systems, models, Run(question.output or folder, config))


def evaluate_attempts(task: Task, communicator: Communicator) -> None:
    """Write ``evaluation.json``, a table for each set, the figures, and with relaxations hulls and Table 1."""
    from voxtal.parallel.communicator import on_root
    from voxtal.runs import exclusive
    from voxtal.screening.attempts import judge_attempts

    with ExitStack() as stack:

        def begin() -> Inputs:
            stack.enter_context(exclusive(task.run.root, "voxtal evaluate"))
            return _read(task)

        inputs = on_root(communicator, begin)
        tables = {}
        for name, attempts in inputs.sets.items():
            if communicator.rank == 0:
                typer.echo(f"{name}: {len(attempts)} attempts")
            tables[name] = judge_attempts(attempts, inputs.known, progress, communicator)
        on_root(communicator, lambda: _conclude(task, inputs, tables))


def _models(evaluation: Path) -> dict[str, Any]:
    from voxtal.runs import read_json
    from voxtal.screening.published import model_figures

    return model_figures(read_json(evaluation)) if evaluation.is_file() else {}


def _read(task: Task) -> Inputs:
    from voxtal.structures.substitution import substituted
    from voxtal.workflows.energies import all_phases

    question = task.question
    sets: dict[str, StructureSet] = {}
    for path in task.structures:
        name = path.stem if path.stem not in sets else str(path).replace("/", "_")
        sets[name] = _read_set(path, failures=True)
    known = _read_set(task.known, failures=False)
    if len(known) == 0:
        raise UserError(f"--known {task.known} holds no structures.")
    if question.baseline:
        budget = question.attempts or max((len(attempts) for attempts in sets.values()), default=0)
        if not budget:
            raise UserError("--baseline without --structures needs a number of --attempts.")
        sets[BASELINE] = substituted(known, budget, question.seed)
    for name, attempts in sets.items():
        if len(attempts) == 0:
            raise UserError(f"{name} holds no attempts.")
    more = {path.name: _read_set(path, failures=False) for path in question.phases} if question.relax else {}
    reference = known if task.reference == task.known else _read_set(task.reference, failures=False)
    return Inputs(sets, known, all_phases(known, more), reference)


def _read_set(path: Path, failures: bool) -> StructureSet:
    """A structure set, or files of another program; with ``failures``, what cannot be read is an empty attempt."""
    from voxtal.structures.filters import Selection
    from voxtal.structures.importers import import_structures
    from voxtal.structures.structure_set import REASON, StructureSet

    if path.suffix == ".h5":
        found = StructureSet.read(path)
    else:
        imported = import_structures([path], selection=Selection("given", max_atoms=None, max_length=None))
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


def _conclude(task: Task, inputs: Inputs, tables: Mapping[str, list[Row]]) -> None:
    """Relax, sum up, write and print; on rank 0."""
    from voxtal.runs import sha256_of, write_json
    from voxtal.screening.attempts import write_attempts
    from voxtal.screening.published import PUBLISHED
    from voxtal.screening.summary import summarize, system_table

    output, figures = task.run.root, {}
    for name, rows in tables.items():
        if task.question.relax:
            _label(task, inputs, name, rows)
        write_attempts(output / f"{name}.csv", rows)
        figures[name] = summarize(rows, inputs.reference)
        figures[name]["systems"] = system_table(rows, task.systems)
        _write_system_table(output / f"{name}-systems.csv", figures[name]["systems"])
    made_with = {
        "known": str(task.known),
        "n_known": len(inputs.known),
        "phases": [str(path) for path in task.question.phases],
        "reference": str(task.reference),
        "seed": task.question.seed,
        "inputs_sha256": {str(path): sha256_of(path) for path in task.inputs if path.is_file()},
    }
    measured = {"sets": figures, "models": task.models, "published": PUBLISHED}
    write_json(output / "evaluation.json", {**made_with, **measured})
    _draw(output, inputs.sets, tables, inputs.known)
    print_figures(figures)
    first = next(iter(figures))
    print_beside_paper(figures | {first: task.models | figures[first]})
    typer.echo(f"{output}: evaluation.json, one CSV a set, elements, densities and hulls as PNG")


def _label(task: Task, inputs: Inputs, name: str, rows: list[Row]) -> None:
    """Relax a random sample of the new structures, and as many of each system asked for; draw hulls."""
    from voxtal.screening.attempts import new_ones, sample
    from voxtal.workflows.energies import energies_above_known

    n, seed = task.question.relax, task.question.seed
    new = new_ones(rows)
    sampled = sample(new, n, seed)
    asked = [[i for i in new if rows[i]["system"] == system] for system in task.systems]
    chosen = sorted({*sampled, *(i for group in asked for i in sample(group, n, seed))})
    typer.echo(f"{name}: relaxing {len(chosen)} of {len(new)} valid, unique and novel ones")
    attempts = inputs.sets[name].subset(chosen)
    energies = energies_above_known(attempts, inputs.phases, task.run, progress, task.systems)
    for i in chosen:
        rows[i] |= energies.labels.get(rows[i]["id"], {"relaxation": "failed"})
    for i in sampled:
        rows[i]["sampled"] = True
    _write_hulls(task, name, energies)


def _write_hulls(task: Task, name: str, energies: Energies) -> None:
    """The hull of each system that was asked for or has a new phase, and a sheet of them (Fig. 5)."""
    from voxtal.reports.hull_figure import DRAWABLE_ELEMENTS, hull_sheet
    from voxtal.reports.hull_files import write_hull_files

    folder, sheet = task.run.root / "hulls" / name, task.run.root / f"{name}-hulls.png"
    shutil.rmtree(folder, ignore_errors=True)  # of another sample, or of fewer known phases
    sheet.unlink(missing_ok=True)
    drawable = [system for system in energies.new if len(system.split("-")) in DRAWABLE_ELEMENTS]
    hulls = {system: energies.hull(system) for system in dict.fromkeys((*task.systems, *drawable))}
    for system, hull in hulls.items():
        write_hull_files(hull, folder / system)
    shown = [hulls[system] for system in task.systems or drawable[:MOST_PANELS]]
    hull_sheet([hull for hull in shown if len(hull["elements"]) in DRAWABLE_ELEMENTS], sheet)


def _write_system_table(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    import csv

    from voxtal.runs import atomic_path

    if table:
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


def _draw(folder: Path, sets: Mapping[str, StructureSet], tables: Mapping[str, list[Row]], known: StructureSet) -> None:
    from voxtal.reports.element_figures import element_density_figure, periodic_table_figure
    from voxtal.screening.attempts import element_counts

    valid = {
        name: attempts.subset([i for i, row in enumerate(tables[name]) if row["valid"]])
        for name, attempts in sets.items()
    }
    counts = {name: element_counts(structures) for name, structures in valid.items()}
    known_counts = element_counts(known)
    for name in sets:
        periodic_table_figure(counts[name], known_counts, folder / f"{name}-elements.png")
    sizes = {name: len(structures) for name, structures in valid.items()}
    element_density_figure(counts, sizes, known_counts, len(known), folder / "element-densities.png")
