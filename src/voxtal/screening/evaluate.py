"""``voxtal evaluate`` on one round: how well the models know their data, and what of the attempts counts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from voxtal.data.graphs import GraphSet
from voxtal.generation.sampling import predicted_energy
from voxtal.generation.stage import PREDICTED, REASON, open_decoder
from voxtal.models.build import restore
from voxtal.parallel.communicator import Communicator, SerialCommunicator
from voxtal.parallel.tasks import results
from voxtal.runs import RoundPaths, Run, atomic_path
from voxtal.screening.metrics import regression, reproduction
from voxtal.structures.matching import STRICT, Matcher, find_known, first_of_duplicates
from voxtal.structures.phases import PHASE_SYMPREC_ANGSTROM, with_spacegroup
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic
from voxtal.training.stages import training_rows

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

_MAX_REPRODUCED = 1000
"""Structures of each split that are decoded and matched; beyond it an evenly spaced sample."""
_BLOCK = 64

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def evaluate_models(run: Run, paths: RoundPaths, progress: Progress) -> dict[str, Any]:
    """Reproduction ratio and constraint error on training and held-out structures."""
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    trained_on = training_rows(structures, graphs.rows)
    decoder = open_decoder(run, paths)
    splits = {"train": np.flatnonzero(trained_on), "heldout": np.flatnonzero(~trained_on)}
    out: dict[str, Any] = {"reproduction": {}, "constraint": {"parity": []}}
    for name, members in splits.items():
        sample = members[:: max(1, -(-len(members) // _MAX_REPRODUCED))]
        decoded: list[Any | None] = []
        with progress(f"decode {name}", len(sample)) as advance:
            for first in range(0, len(sample), _BLOCK):
                block = sample[first : first + _BLOCK]
                decoded += [_structure(d) for d in decoder.decode(graphs.graphs[block])]
                advance(len(block), "")
        originals = [structures.structure(int(graphs.rows[i])) for i in sample]
        out["reproduction"][name] = reproduction(originals, decoded)
    arithmetic = Arithmetic.of(run.config.train)
    constraint = arithmetic.place(restore(load(paths.train("constraint") / "best.pt", "voxtal train constraint")))
    predicted = predicted_energy(constraint, graphs.graphs, arithmetic.device)
    targets = structures.properties[FORMATION_ENERGY][graphs.rows]
    for name, members in splits.items():
        labelled = members[np.isfinite(targets[members])]
        out["constraint"][name] = regression(targets[labelled], predicted[labelled])
        out["constraint"]["parity"] += [
            {
                "id": str(structures.ids[graphs.rows[i]]),
                "split": name,
                "target": float(targets[i]),
                "predicted": float(predicted[i]),
            }
            for i in labelled
        ]
    return out


def judge_candidates(
    candidates: StructureSet, known: StructureSet, progress: Progress, communicator: Communicator | None = None
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """One row per attempt (:data:`CANDIDATE_COLUMNS`), and the row numbers of those that are valid, unique and novel.

    Unique: the first of equal ones. Novel: equal to no structure of ``known``. Both by the strict matcher. Collective:
    every rank calls it and has the answer.
    """
    communicator = communicator or SerialCommunicator()
    matcher = Matcher(STRICT)
    valid = np.flatnonzero(candidates.provenance[REASON] == "")
    structures = candidates.subset(valid)
    silent: AbstractContextManager[Callable[..., None]] = nullcontext(lambda *_: None)
    with progress("compare candidates", 3) if communicator.rank == 0 else silent as advance:
        first = np.asarray(first_of_duplicates(structures, matcher, communicator), dtype=np.int64)
        advance(1, "with each other")
        unique = np.flatnonzero(first == np.arange(len(structures)))
        matches = find_known(structures.subset(unique), known, matcher, communicator)
        advance(1, "with the training set")
        spacegroups = results(
            communicator,
            len(structures),
            lambda i: with_spacegroup(structures.structure(i), PHASE_SYMPREC_ANGSTROM),
        )
        advance(1, "space groups")
    verdicts: dict[int, tuple[str, str]] = {}
    for position, original in enumerate(first.tolist()):
        if original != position:
            verdicts[int(valid[position])] = ("duplicate", str(candidates.ids[valid[original]]))
    for position, match in zip(unique.tolist(), matches, strict=True):
        if match is not None:
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
    """Write ``candidates.csv``: one row per attempt, why it fell or passed."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, CANDIDATE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


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
    }


def _structure(decoded: Any) -> Any | None:
    if decoded.reason:
        return None
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(decoded.cell), decoded.numbers.tolist(), decoded.frac_coords)
