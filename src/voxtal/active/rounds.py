"""A round as a restartable sequence of stages; each reads earlier files and leaves its own whole.

structures -> voxelize -> models (see voxtal.active.model_stages) -> generate -> screen -> relax -> hull -> augment (the
next round's structures). A stage that is done finds so by itself, so running a round again
after any kind of stop carries on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.active.acquisition import select_candidates
from voxtal.active.bootstrap import bootstrap, relax_settings, withheld_path
from voxtal.active.model_stages import model_stages, trainable
from voxtal.calculators.registry import configured
from voxtal.errors import UserError
from voxtal.generation.blocks import ATTEMPT
from voxtal.generation.stage import features_of_attempts, generate, predictions_of
from voxtal.ledger import Ledger
from voxtal.parallel.communicator import Communicator, SerialCommunicator, on_root
from voxtal.reports.hull_files import write_hull_files
from voxtal.runs import RoundPaths, Run, read_json, sha256_of, write_json
from voxtal.screening.evaluate import evaluate_models, funnel, judge_candidates, write_candidates
from voxtal.screening.metrics import relaxation
from voxtal.structures.augment import augmented
from voxtal.structures.contacts import too_close
from voxtal.structures.matching import STRICT, Matcher, find_known
from voxtal.structures.structure_set import (
    E_ABOVE_HULL,
    FORMATION_ENERGY,
    REASON,
    SPLIT,
    StructureSet,
)
from voxtal.training.objectives import scores
from voxtal.workflows.backends import backend_of
from voxtal.workflows.labels import hull_of_run
from voxtal.workflows.relaxation import FORMATION_ENERGY_BEFORE, enqueue, relax_set

MOST_COMPARED = 2000
"""Candidates whose distances from each other are looked at, the best by their predictions: a graph is 100 KB."""

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]


def next_round(run: Run) -> RoundPaths:
    """The round to run: the first one without a summary."""
    return next((paths for paths in run.rounds() if not paths.summary.is_file()), run.round(len(run.rounds())))


def run_round(
    run: Run, paths: RoundPaths, progress: Progress, say: Say, until: str | None = None
) -> dict[str, Any] | None:
    """Run every stage of a round that is not done yet and write its ``summary.json``, which is returned.

    With ``until``, end after the stage of that name and return None.

    Raises
    ------
    UserError
        Wrong configuration or input, or no such stage.
    Interrupted
        A stop signal came; the same call carries on.
    """
    stages: list[tuple[str, Callable[[], Any]]] = [
        ("structures", lambda: _structures(run, paths, progress, say)),
        *model_stages(run, paths, progress, say),
        ("generate", lambda: generate(run, paths, run.config.generate.n, progress, say=say)),
        ("screen", lambda: screen(run, paths, progress, say)),
        ("relax", lambda: relax_selected(run, paths, progress)),
        ("hull", lambda: write_hull(run, paths)),
        ("augment", lambda: augment(run, paths)),
    ]
    names = [name for name, _ in stages]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: a round has no such stage; its stages are {', '.join(names)}.")
    clock = _StageClock(paths.root / "stages.json")
    for number, (name, stage) in enumerate(stages, 1):
        say(f"round {paths.index}, {number}/{len(stages)}: {name}")
        clock.run(name, stage)
        if name == until:
            return None
    summary = summarize(run, paths, clock.seconds)
    write_json(paths.summary, summary)
    return summary


class _StageClock:
    """Seconds spent in each stage, over all starts of the round."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.is_file() else {}

    def run(self, name: str, stage: Callable[[], Any]) -> None:
        began = time.monotonic()
        try:
            stage()
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 2)
            write_json(self.path, self.seconds)


def _structures(run: Run, paths: RoundPaths, progress: Progress, say: Say) -> None:
    if paths.structures.is_file():
        return
    if paths.index > 0:
        raise UserError(f"{paths.structures} is missing; delete {paths.root} and run the round before it again.")
    counts = bootstrap(run, paths, progress, say)
    say("structures: " + ", ".join(f"{n} {what}" for what, n in counts.items()))


def screen(
    run: Run, paths: RoundPaths, progress: Progress, say: Say, communicator: Communicator | None = None
) -> dict[str, Any]:
    """Judge models and attempts and choose what to label: ``candidates.csv``, ``selected.h5``, ``evaluation.json``.

    Collective: comparing candidates and drawing the best again is shared out to all ranks, rank 0 does the rest.
    """
    communicator = communicator or SerialCommunicator()
    known = on_root(communicator, lambda: _screened(paths))
    if known is not None:
        return known
    evaluation = on_root(communicator, lambda: evaluate_models(run, paths, progress))
    candidates, structures = on_root(
        communicator, lambda: (StructureSet.read(paths.candidates), StructureSet.read(paths.structures))
    )
    rows, passed = judge_candidates(candidates, structures, progress, communicator)
    best, score = on_root(communicator, lambda: _best(run, candidates, rows, passed, progress))
    attempts = candidates.properties[ATTEMPT][best].astype(np.int64)
    features = features_of_attempts(run, paths, attempts, progress, communicator)

    def choose() -> dict[str, Any]:
        chosen = best[select_candidates(score, features, run.config.screen.select, run.config.screen.diversity)]
        return _conclude_screen(run, paths, evaluation, candidates, rows, chosen)

    return on_root(communicator, choose)


def _screened(paths: RoundPaths) -> dict[str, Any] | None:
    """The evaluation of the candidates that are there, if it has been made."""
    if not paths.candidates.is_file():
        raise UserError(f"No candidates at {paths.candidates}; make them with `voxtal generate`.")
    if paths.evaluation.is_file() and selected_path(paths).is_file():
        known: dict[str, Any] = read_json(paths.evaluation)
        if known.get("candidates_sha256") == sha256_of(paths.candidates):
            return known
    return None


def _best(
    run: Run, candidates: StructureSet, rows: list[dict[str, Any]], passed: np.ndarray, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Those that ``passed`` which are compared with each other, and their scores; says of the others why not."""
    config = run.config.screen
    with progress("check contacts", len(passed)) as advance:
        for i in passed.tolist():
            rows[i]["outcome"] = _why_not_worth_labelling(candidates.structure(i), config.min_contact) or "not-selected"
            advance()
    passed = np.array([i for i in passed.tolist() if rows[i]["outcome"] == "not-selected"], dtype=np.int64)
    objectives = run.config.generator.objectives
    predictions = predictions_of(candidates.subset(passed), [objective.property for objective in objectives])
    score = scores(objectives, predictions)
    best = np.sort(np.argsort(score, kind="stable")[: max(MOST_COMPARED, config.select)])
    return passed[best], score[best]


def _conclude_screen(
    run: Run,
    paths: RoundPaths,
    evaluation: dict[str, Any],
    candidates: StructureSet,
    rows: list[dict[str, Any]],
    chosen: np.ndarray,
) -> dict[str, Any]:
    """Write everything, with the candidates that were ``chosen``."""
    for i in chosen:
        rows[i]["outcome"] = "selected"
    evaluation |= {**funnel(rows), "candidates_sha256": sha256_of(paths.candidates)}
    write_candidates(paths.screen / "candidates.csv", rows)
    candidates.subset(chosen).write(selected_path(paths))
    with Ledger(run.ledger) as ledger:
        ledger.record_candidates(
            {
                "id": row["id"],
                "round": paths.index,
                "seed": run.config.seed,
                "model": run.config.generate.generator,
                "formula": row["formula"],
                "outcome": row["outcome"],
                "reason": row["reason"] or row["matches"],
                "predicted_formation_energy": row["predicted_formation_energy_ev_per_atom"],
            }
            for row in rows
        )
    write_json(paths.evaluation, evaluation)
    return evaluation


def _why_not_worth_labelling(structure: Any, min_contact: float) -> str:
    """Outcome of a valid, unique and novel candidate that no calculator should be bothered with, or ``""``."""
    if len(structure.composition) == 1:
        return "element"  # its formation energy says nothing of the system
    return "too-close" if too_close(structure, min_contact) else ""


def selected_path(paths: RoundPaths) -> Path:
    """The candidates that are handed to the calculator."""
    return paths.screen / "selected.h5"


def relaxed_path(paths: RoundPaths) -> Path:
    """The candidates that came back, relaxed and labelled."""
    return paths.relax / "relaxed.h5"


def relax_selected(run: Run, paths: RoundPaths, progress: Progress) -> None:
    """Relax and label the selected candidates; those that the ledger knows are not run again."""
    config = run.config.relax
    selected = StructureSet.read(selected_path(paths))
    relaxed = relax_set(
        selected,
        configured(config),
        relax_settings(run, config.candidate_max_steps),
        run.ledger,
        "candidate",
        round=paths.index,
        backend=backend_of(run),
        folder=paths.relax,
        close_at=config.close_at,
        progress=progress,
    )
    relaxed.write(relaxed_path(paths))


def enqueue_selected(run: Run, paths: RoundPaths) -> bool:
    """Let the round's selected candidates wait in the ledger; False where none are selected yet."""
    if not selected_path(paths).is_file():
        return False
    config = run.config.relax
    enqueue(
        StructureSet.read(selected_path(paths)),
        configured(config),
        relax_settings(run, config.candidate_max_steps),
        run.ledger,
        "candidate",
        round=paths.index,
        folder=paths.relax,
    )
    return True


def write_hull(run: Run, paths: RoundPaths) -> dict[str, Any]:
    """``hull.json``, its table and its figure, from every label up to this round and the competing phases.

    Where training structures keep their source's labels and no candidate was relaxed, there is none.
    """
    if run.config.structures.labels == "source" and len(StructureSet.read(relaxed_path(paths))) == 0:
        return {}
    hull = hull_of_run(run, paths.index)
    write_hull_files(hull, paths.hull.parent)
    return hull


def augment(run: Run, paths: RoundPaths) -> None:
    """Write the next round's structures: this round's and the labelled candidates.

    Where the training set's labels are the source's, candidates that another method labelled come without labels.
    """
    target = run.round(paths.index + 1).structures
    if target.is_file():
        return
    structures, relaxed = StructureSet.read(paths.structures), trainable(run, StructureSet.read(relaxed_path(paths)))
    limit = run.config.structures.max_formation_energy_ev_per_atom
    from_source = run.config.structures.labels == "source"
    following, _ = augmented(structures, relaxed, f"round {paths.index}", limit, leave_other_labels=from_source)
    following.write(target)


def summarize(run: Run, paths: RoundPaths, seconds: dict[str, float]) -> dict[str, Any]:
    """The round's figures, flat, with their denominators."""
    structures = StructureSet.read(paths.structures)
    evaluation = read_json(paths.evaluation)
    relaxed = StructureSet.read(relaxed_path(paths))
    hull = read_json(paths.hull) if paths.hull.is_file() else {"entries": []}
    above = {entry["id"]: entry["e_above_known_hull_ev_per_atom"] for entry in hull["entries"]}
    e_above_hull = np.array([above.get(str(id_), np.nan) for id_ in relaxed.ids])
    relaxed = relaxed.with_columns(properties={E_ABOVE_HULL: e_above_hull})
    counts = evaluation["funnel"]
    split = structures.provenance.get(SPLIT, np.full(len(structures), "train"))
    return {
        "round": paths.index,
        "rounds": paths.index + 1,
        "n_training": int(np.sum(split == "train")),
        "n_heldout": int(np.sum(split == "heldout")),
        "reproduction_ratio_strict": evaluation["reproduction"]["train"]["strict"],
        "reproduction_ratio_cdvae": evaluation["reproduction"]["train"]["cdvae"],
        "heldout_reproduction_ratio_strict": evaluation["reproduction"]["heldout"]["strict"],
        "heldout_reproduction_ratio_cdvae": evaluation["reproduction"]["heldout"]["cdvae"],
        "constraint_mae_heldout_ev_per_atom": evaluation["constraint"]["heldout"]["mae"],
        "constraint_r2_heldout": evaluation["constraint"]["heldout"]["r2"],
        "n_attempts": counts["attempts"],
        "n_valid": counts["valid"],
        "n_unique": counts["unique"],
        "n_novel": counts["novel"],
        "n_believable": counts["believable"],
        "n_selected": counts["selected"],
        **relaxation(
            relaxed.properties[FORMATION_ENERGY],
            relaxed.properties[FORMATION_ENERGY_BEFORE],
            e_above_hull,
        ),
        "rediscovered": rediscovered(run, paths),
        "wall_seconds": round(sum(seconds.values()), 1),
        "stages": seconds,
    }


def rediscovered(run: Run, paths: RoundPaths) -> list[dict[str, Any]]:
    """For each withheld phase, whether an attempt of this round is it, as generated or after relaxation.

    Where several withheld structures have the phase's formula and space group, the lowest in energy is meant.
    """
    from voxtal.structures.phases import matches_phase

    path = withheld_path(run.round(0))
    if not run.config.structures.withhold or not path.is_file():
        return []
    withheld = StructureSet.read(path)
    candidates, relaxed = StructureSet.read(paths.candidates), StructureSet.read(relaxed_path(paths))
    generated = [candidates.structure(int(i)) for i in np.flatnonzero(candidates.provenance[REASON] == "")]
    matcher = Matcher(STRICT)
    out = []
    for phase in run.config.structures.withhold:
        rows = [i for i in range(len(withheld)) if matches_phase(withheld.structure(i), phase)]
        rows.sort(key=lambda i: withheld.properties[FORMATION_ENERGY][i])
        references = [withheld.structure(i) for i in rows[:1]]
        found = [
            any(match is not None for match in find_known(structures, references, matcher))
            for structures in (generated, list(relaxed))
        ]
        out.append({"phase": phase, "known": bool(references), "generated": found[0], "relaxed": found[1]})
    return out
