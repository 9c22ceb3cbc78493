"""The table of attempts and its figures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voxtal.parallel.communicator import SerialCommunicator
from voxtal.screening.attempts import (
    COLUMNS,
    densities,
    element_counts,
    judge_attempts,
    new_ones,
    sample,
    write_attempts,
)
from voxtal.screening.metrics import share
from voxtal.screening.summary import summarize, system_table
from voxtal.structures.structure_set import StructureSet

pytest.importorskip("smact")


def shifted(structure: Any) -> Any:
    moved = structure.copy()
    moved.translate_sites(range(len(moved)), [0.13, 0.21, 0.37])
    return moved


@pytest.fixture(scope="module")
def attempts(copper_gold: list[Any]) -> StructureSet:
    """A, the same A in another cell, a known B twice, C, one with atoms too close, and one that is no structure."""
    from pymatgen.core import Lattice, Structure

    a, b, c = copper_gold[-3:]
    close = Structure(Lattice.cubic(3), ["Na", "Na"], [[0, 0, 0], [0.01, 0, 0]])
    rows = [a, shifted(a * (2, 1, 1)), b, shifted(b), c, close]
    packed = StructureSet.from_structures(rows, [f"g{i}" for i in range(6)])
    nothing = StructureSet(
        np.array(["g6"]), np.zeros(2, dtype=np.int64), packed.numbers[:0], packed.frac_coords[:0], np.zeros((1, 3, 3))
    )
    return StructureSet.concatenate([packed, nothing.with_columns(provenance={"reason": ["no cell"]})])


@pytest.fixture(scope="module")
def known(copper_gold: list[Any]) -> StructureSet:
    return StructureSet.from_structures([shifted(copper_gold[-2] * (1, 2, 1))], ["the known one"])


@pytest.fixture
def rows(attempts: StructureSet, known: StructureSet, quiet: Any) -> list[dict[str, Any]]:
    return judge_attempts(attempts, known, quiet, SerialCommunicator())


def test_each_attempt_has_its_verdicts(rows: list[dict[str, Any]]) -> None:
    """Any share of the summary would be wrong."""
    assert [row["valid"] for row in rows] == [True] * 5 + [False] * 2
    assert [row["unique"] for row in rows] == [True, False, True, False, True, None, None]
    assert [row["novel"] for row in rows] == [True, True, False, False, True, None, None]
    assert [row["duplicate_of"] for row in rows[:5]] == ["", "g0", "", "g2", ""]
    assert rows[3]["known_as"] == "the known one"
    assert [row["reason"] for row in rows[5:]] == ["atoms closer than 0.5 A", "no cell"]
    assert [row["compositionally_valid"] for row in rows] == [True] * 6 + [None]
    assert new_ones(rows) == [0, 4]
    assert (rows[0]["formula"], rows[0]["system"], rows[0]["n_elements"]) == ("Cu3Au", "Au-Cu", 2)


def test_density_and_elements(attempts: StructureSet) -> None:
    """The distributions that are compared: Cu3Au at 3.75 A has 12.2 g/cm^3; an empty attempt has none."""
    found = densities(attempts)
    assert found[0] == pytest.approx(12.2, abs=0.1)
    assert np.isnan(found[6])
    assert element_counts(attempts) == {"Cu": 5, "Au": 5, "Na": 1}


def test_summary_counts_out_of_all_attempts(rows: list[dict[str, Any]], known: StructureSet) -> None:
    """A share of the valid ones would flatter a generator that fails often."""
    figures = summarize(rows, known)
    assert [figures[name]["n"] for name in ("valid", "unique", "novel")] == [5, 3, 2]
    assert {figures[name]["of"] for name in ("valid", "compositionally_valid", "unique", "novel")} == {7}
    assert (figures["distinct_of_valid"]["n"], figures["distinct_of_valid"]["of"]) == (2, 5)
    assert figures["invalid_reasons"] == {"atoms closer than 0.5 A": 1, "no cell": 1}
    assert (figures["n_systems"], figures["n_elements"]) == (1, 2)
    assert figures["n_elements_distance"] == {"wasserstein_1": 0.0, "n": 5, "n_reference": 1}
    assert "sampled" not in figures


def labelled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The new ones as after relaxation: one falls below the hull, the other failed."""
    label = {
        "relaxation": "converged",
        "formation_energy_before_ev_per_atom": 0.1,
        "formation_energy_ev_per_atom": -0.05,
        "e_above_hull_ev_per_atom": -0.01,
        "n_competing": 3,
        "subsystems_without_known": "",
        "relaxed_into": "",
        "new_phase": True,
        "rmsd_angstrom": 0.2,
    }
    rows[0] |= {**label, "sampled": True}
    rows[4] |= {"relaxation": "failed", "sampled": True}
    return rows


def test_a_failed_relaxation_counts_as_not_stable(rows: list[dict[str, Any]], known: StructureSet) -> None:
    """S.U.N. would be overestimated by leaving out what cannot be relaxed."""
    figures = summarize(labelled(rows), known)
    assert (figures["stable_of_sampled"]["n"], figures["stable_of_sampled"]["of"]) == (1, 2)
    assert figures["sun_stable"] == share(1, 7)
    assert figures["negative_ef_of_labelled"]["of"] == 1
    assert figures["new_phases_of_sampled"] == share(1, 2)
    assert figures["complete_hull_of_labelled"] == share(1, 1)
    assert figures["mean_abs_delta_ef_ev_per_atom"]["mean"] == pytest.approx(0.15)


def test_sun_of_a_sample_is_scaled_to_all_attempts(rows: list[dict[str, Any]], known: StructureSet) -> None:
    """With one of two new ones relaxed and stable, the estimate is two of seven, not one of seven."""
    labelled(rows)[4]["sampled"] = False
    figures = summarize(rows, known)
    assert figures["sun_stable"]["share"] == pytest.approx(2 / 7)
    assert figures["sun_stable"]["n"] is None
    assert figures["sampled"]["n"] == 1


def test_table_of_systems(rows: list[dict[str, Any]]) -> None:
    """The paper's Table 1; a system without structures must not stop it."""
    table = system_table(labelled(rows), ["Au-Cu", "Co-Hf"])
    assert [(row["n_generated"], row["n_relaxed"], row["n_delta_ef_below_0.2"]) for row in table] == [
        (2, 1, 1),
        (0, 0, 0),
    ]
    assert [row["n_new_phases"] for row in table] == [1, 0]
    assert table[0]["mean_formation_energy_ev_per_atom"] == pytest.approx(-0.05)
    assert table[1]["mean_e_above_hull_ev_per_atom"] is None


def test_samples_are_nested() -> None:
    """A larger --relax would relax other structures and throw away what was calculated."""
    candidates = list(range(100, 150))
    small, large = sample(candidates, 5, 1), sample(candidates, 20, 1)
    assert set(small) < set(large) <= set(candidates)
    assert sample(candidates, 500, 1) == candidates


def test_table_is_written(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    """Other programs read yes, no and unknown from it."""
    write_attempts(tmp_path / "table.csv", rows)
    with open(tmp_path / "table.csv", newline="") as handle:
        table = list(csv.DictReader(handle))
    assert tuple(table[0]) == COLUMNS
    assert [row["unique"] for row in table] == ["1", "0", "1", "0", "1", "", ""]
    assert table[6]["density_g_per_cm3"] == table[0]["formation_energy_ev_per_atom"] == ""
