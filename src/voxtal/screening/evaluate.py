"""``voxtal evaluate`` on one round: how well the models know their data, and what of the attempts counts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from voxtal.config import ICSG3D
from voxtal.data.graphs import GraphSet
from voxtal.generation.blocks import PREDICTED, predicted_column
from voxtal.generation.sampling import predicted
from voxtal.generation.stage import open_decoder
from voxtal.parallel.communicator import Communicator, SerialCommunicator
from voxtal.parallel.tasks import results, shown
from voxtal.runs import RoundPaths, Run, atomic_path
from voxtal.screening.comparison import UNKNOWN, Progress, compare
from voxtal.screening.map_models import evaluate_maps_models
from voxtal.screening.metrics import parity, reproduction, spaced
from voxtal.structures.phases import PHASE_SYMPREC_ANGSTROM, with_spacegroup
from voxtal.structures.splits import HELDOUT, TRAIN, in_split
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, StructureSet
from voxtal.training.device import Arithmetic
from voxtal.training.objectives import labels, load_constraints, properties_of

CANDIDATE_COLUMNS = (
    "id",
    "formula",
    "n_atoms",
    "spacegroup",
    "outcome",
    "reason",
    "predicted_formation_energy_ev_per_atom",
    "matches",
)

_BLOCK = 64


def evaluate_models(run: Run, paths: RoundPaths, progress: Progress) -> dict[str, Any]:
    """Reproduction ratio and the errors of what predicts properties, on training and held-out structures."""
    if run.config.generate.generator == ICSG3D:
        return evaluate_maps_models(run, paths, progress)
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    decoder = open_decoder(run, paths)
    splits = {name: np.flatnonzero(in_split(structures, graphs.rows, name)) for name in (TRAIN, HELDOUT)}
    out: dict[str, Any] = {"reproduction": {}, "other_constraints": {}}
    for name, members in splits.items():
        sample = spaced(members)
        decoded: list[Any | None] = []
        with progress(f"decode {name}", len(sample)) as advance:
            for first in range(0, len(sample), _BLOCK):
                block = sample[first : first + _BLOCK]
                decoded += [d.structure() for d in decoder.decode(graphs.dense(block))]
                advance(len(block), "")
        originals = [structures.structure(int(graphs.rows[i])) for i in sample]
        out["reproduction"][name] = reproduction(originals, decoded)
    arithmetic = Arithmetic.of(run.config.train)
    constraints = load_constraints(paths, properties_of(run.config.generator))
    placed = {name: arithmetic.place(constraint) for name, constraint in constraints.items()}
    ids = structures.ids[graphs.rows]
    for name, values in predicted(placed, graphs.dense(), arithmetic.device).items():
        judged = parity(labels(structures, name, paths.structures)[graphs.rows], values, ids, splits)
        if name == FORMATION_ENERGY:
            out["constraint"] = judged
        else:
            out["other_constraints"][name] = judged
    return out


def judge_candidates(
    candidates: StructureSet, known: StructureSet, progress: Progress, communicator: Communicator | None = None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """One row per attempt (:data:`CANDIDATE_COLUMNS`), and the row numbers of those that are valid, unique and novel.

    Unique: the first of equal ones. Novel: equal to no structure of ``known``. Both by the strict matcher. Collective:
    every rank calls it and has the answer.
    """
    communicator = communicator or SerialCommunicator()
    valid = np.flatnonzero(candidates.provenance[REASON] == "")
    structures = candidates.subset(valid)
    first, matches = compare(structures, known, progress, communicator)
    with shown(progress, "space groups", len(structures), communicator) as advance:
        spacegroups = results(
            communicator,
            len(structures),
            lambda i: with_spacegroup(structures.structure(i), PHASE_SYMPREC_ANGSTROM),
            advance,
        )
    verdicts: dict[int, tuple[str, str]] = {}
    for position, (original, match) in enumerate(zip(first.tolist(), matches.tolist(), strict=True)):
        if original != position:
            verdicts[int(valid[position])] = ("duplicate", str(candidates.ids[valid[original]]))
        elif match != UNKNOWN:
            verdicts[int(valid[position])] = ("known", str(known.ids[match]))
    groups = dict(zip(valid.tolist(), spacegroups, strict=True))
    rows = [_row(candidates, i, groups.get(i, ""), *verdicts.get(i, ("", ""))) for i in range(len(candidates))]
    passed = [i for i in valid.tolist() if i not in verdicts]
    return rows, np.asarray(passed, dtype=np.int64)


def funnel(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts out of all attempts, and the reasons of the invalid ones."""
    outcomes = Counter(row["outcome"] for row in rows)
    attempts = len(rows)
    valid = attempts - outcomes["invalid"]
    unique = valid - outcomes["duplicate"]
    return {
        "funnel": {
            "attempts": attempts,
            "valid": valid,
            "unique": unique,
            "novel": unique - outcomes["known"],
            "believable": unique - outcomes["known"] - outcomes["too-close"] - outcomes["element"],
            "selected": outcomes["selected"],
        },
        "invalid_reasons": dict(Counter(row["reason"] for row in rows if row["outcome"] == "invalid")),
    }


def write_candidates(path: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Write ``candidates.csv``: one row per attempt, why it fell or passed, and any more columns that rows have."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as handle:
        columns = dict.fromkeys([*CANDIDATE_COLUMNS, *(name for row in rows[:1] for name in row)])
        writer = csv.DictWriter(handle, list(columns))
        writer.writeheader()
        writer.writerows({name: "" if value != value else value for name, value in row.items()} for row in rows)


def _row(candidates: StructureSet, i: int, spacegroup: Any, outcome: str, matches: str) -> dict[str, Any]:
    reason = str(candidates.provenance[REASON][i])
    n_atoms = int(candidates.offsets[i + 1] - candidates.offsets[i])
    structure = candidates.structure(i) if n_atoms else None
    return {
        "id": str(candidates.ids[i]),
        "formula": structure.composition.reduced_formula if structure else "",
        "n_atoms": n_atoms,
        "spacegroup": spacegroup,
        "outcome": "invalid" if reason else outcome or "not-selected",
        "reason": reason,
        "predicted_formation_energy_ev_per_atom": round(float(candidates.properties[PREDICTED][i]), 4),
        "matches": matches,
        **{
            name: round(float(values[i]), 4)
            for name, values in candidates.properties.items()
            if name.startswith(predicted_column("")) and name != PREDICTED
        },
    }
