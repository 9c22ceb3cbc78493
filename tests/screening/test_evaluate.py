"""Judging models and attempts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxtal.generation.blocks import PREDICTED
from voxtal.runs import Run
from voxtal.screening.evaluate import (
    CANDIDATE_COLUMNS,
    evaluate_models,
    funnel,
    judge_candidates,
    write_candidates,
)
from voxtal.structures.structure_set import REASON, StructureSet


def shifted(structure: Any) -> Any:
    moved = structure.copy()
    moved.translate_sites(range(len(moved)), [0.13, 0.21, 0.37])
    return moved


@pytest.fixture
def attempts(copper_gold: list[Any]) -> StructureSet:
    """Two failures, A, the same A in another cell, a known B twice, and C."""
    from pymatgen.core import Lattice, Structure

    a, b, c = copper_gold[-3:]
    close = Structure(Lattice.cubic(3), ["Cu", "Cu"], [[0, 0, 0], [0.01, 0, 0]])
    rows = [close, a, shifted(a * (2, 1, 1)), b, close, shifted(b), c]
    return StructureSet.from_structures(
        rows,
        [f"r0-{i}" for i in range(len(rows))],
        properties={PREDICTED: np.linspace(-0.3, 0.3, len(rows)), "attempt": np.arange(len(rows))},
        provenance={REASON: ["no cell", "", "", "", "atoms closer than 0.5 A", "", ""]},
    )


@pytest.fixture
def known(copper_gold: list[Any]) -> StructureSet:
    return StructureSet.from_structures(
        [copper_gold[0], shifted(copper_gold[-2] * (1, 2, 1))], ["other", "the known one"]
    )


def test_verdicts(attempts: StructureSet, known: StructureSet, quiet: Any) -> None:
    """Each attempt falls for one reason, and what it equals is named."""
    rows, passed = judge_candidates(attempts, known, quiet)
    assert [(row["outcome"], row["reason"] or row["matches"]) for row in rows] == [
        ("invalid", "no cell"),
        ("not-selected", ""),
        ("duplicate", "r0-1"),
        ("known", "the known one"),
        ("invalid", "atoms closer than 0.5 A"),
        ("duplicate", "r0-3"),
        ("not-selected", ""),
    ]
    assert passed.tolist() == [1, 6]
    assert (rows[1]["formula"], rows[1]["n_atoms"], rows[1]["spacegroup"]) == ("Cu3Au", 4, 221)
    assert (rows[6]["formula"], rows[6]["n_atoms"], rows[6]["spacegroup"]) == ("CuAu", 2, 221)


def test_funnel_adds_up(attempts: StructureSet, known: StructureSet, quiet: Any) -> None:
    """Every attempt is counted once: what falls at each gate and what is left are all attempts."""
    rows, passed = judge_candidates(attempts, known, quiet)
    rows[1]["outcome"], rows[6]["outcome"] = "too-close", "selected"
    counts = funnel(rows)
    gates = {"attempts": 7, "valid": 5, "unique": 3, "novel": 2, "believable": 1, "selected": 1}
    assert counts["funnel"] == gates
    assert counts["funnel"]["novel"] == len(passed)
    assert counts["invalid_reasons"] == {"no cell": 1, "atoms closer than 0.5 A": 1}
    assert sum(counts["invalid_reasons"].values()) == 7 - counts["funnel"]["valid"]


def test_nothing_valid(attempts: StructureSet, known: StructureSet, quiet: Any) -> None:
    """The first round of a badly trained model is a result too."""
    rows, passed = judge_candidates(attempts.subset([0, 4]), known, quiet)
    assert passed.shape == (0,)
    counts = funnel(rows)["funnel"]
    assert counts.pop("attempts") == 2
    assert set(counts.values()) == {0}


def test_candidates_table(attempts: StructureSet, known: StructureSet, quiet: Any, tmp_path: Path) -> None:
    """One row an attempt, under the names that the report reads."""
    rows, _ = judge_candidates(attempts, known, quiet)
    write_candidates(tmp_path / "candidates.csv", rows)
    with open(tmp_path / "candidates.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert tuple(table[0]) == CANDIDATE_COLUMNS
    assert [row["id"] for row in table] == attempts.ids.tolist()
    assert float(table[0]["predicted_formation_energy_ev_per_atom"]) == pytest.approx(-0.3)


def test_models_are_judged_on_both_splits(trained_run: Run, quiet: Any) -> None:
    """Held-out structures among the trained-on ones would flatter the models; every labelled one is in the plot."""
    evaluation = evaluate_models(trained_run, trained_run.round(0), quiet)
    reproduced, constraint = evaluation["reproduction"], evaluation["constraint"]
    structures = StructureSet.read(trained_run.round(0).structures)
    split = structures.provenance["split"]
    for name in ("train", "heldout"):
        n = int(np.sum(split == name))
        assert reproduced[name]["n"] == constraint[name]["n"] == n
        assert reproduced[name]["n_strict"] <= reproduced[name]["n_cdvae"] <= n
    assert reproduced["train"]["n_strict"] > 0
    reported = {
        id: name for id, name in zip(structures.ids.tolist(), split.tolist(), strict=True) if name != "validation"
    }
    assert {point["id"]: point["split"] for point in constraint["parity"]} == reported
    points = [point for point in constraint["parity"] if point["split"] == "train"]
    errors = [abs(point["target"] - point["predicted"]) for point in points]
    assert constraint["train"]["mae"] == pytest.approx(np.mean(errors))
