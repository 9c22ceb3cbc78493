from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.registry import get_calculator
from voxtal.errors import UserError
from voxtal.ledger import Ledger
from voxtal.structures.structure_set import E_ABOVE_HULL, FORMATION_ENERGY, METHOD, SOURCE, StructureSet
from voxtal.workflows.labels import ledger_entries, within
from voxtal.workflows.local import Local
from voxtal.workflows.relaxation import ENERGY_PER_ATOM, FORMATION_ENERGY_BEFORE, STATUS, relax_set

SETTINGS = RelaxSettings(max_steps=60, fmax_ev_per_angstrom=0.02)
FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
EMT_SPEC = CalculatorSpec("emt")
EMT = get_calculator(EMT_SPEC).method.fingerprint


def cu_au() -> StructureSet:
    structures = [
        Structure(Lattice.cubic(3.85), ["Au", "Cu", "Cu", "Cu"], FCC),  # L1_2
        Structure(Lattice.cubic(3.2), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]]),  # B2
        Structure(Lattice.cubic(1.0), ["Au", "Cu"], [[0, 0, 0], [0.1, 0, 0]]),
        Structure(Lattice.cubic(3.7), ["Cu"] * 4, FCC),
    ]
    return StructureSet.from_structures(
        structures,
        ["l12", "b2", "too/close", "cu"],
        properties={"band_gap": [0.0, 0.1, 0.2, 0.3], E_ABOVE_HULL: [0.0] * 4},
        provenance={SOURCE: ["L1_2", "B2", "none", "A1"]},
    )


@pytest.fixture(scope="module")
def relaxed(tmp_path_factory) -> tuple[Path, StructureSet, list[dict]]:
    path = tmp_path_factory.mktemp("run")
    rows: list[dict] = []
    labelled = relax_set(
        cu_au(),
        EMT_SPEC,
        SETTINGS,
        path / "ledger.sqlite",
        "candidate",
        round=2,
        backend=Local(2),
        folder=path / "relax",
        on_finished=rows.append,
    )
    return path, labelled, rows


def test_labels_have_the_right_physics(relaxed):
    """Formation energies would be against wrong elements, or of the wrong geometry."""
    _, labelled, _ = relaxed
    assert list(labelled.ids) == ["l12", "b2", "cu"]
    energy = dict(zip(labelled.ids, labelled.properties[FORMATION_ENERGY], strict=True))
    before = dict(zip(labelled.ids, labelled.properties[FORMATION_ENERGY_BEFORE], strict=True))
    assert -0.05 < energy["l12"] < -0.005
    assert energy["cu"] == pytest.approx(0.0, abs=0.005)
    assert all(energy[name] <= before[name] + 1e-9 for name in energy)
    assert np.isfinite(labelled.properties[ENERGY_PER_ATOM]).all()
    assert np.cbrt(np.linalg.det(labelled.cells[0])) == pytest.approx(3.70, abs=0.03)


def test_columns_are_kept_and_foreign_labels_dropped(relaxed):
    """A structure could no longer be traced, or would carry an energy above hull of another method."""
    _, labelled, _ = relaxed
    assert list(labelled.provenance[SOURCE]) == ["L1_2", "B2", "A1"]
    assert set(labelled.provenance[METHOD]) == {EMT}
    assert set(labelled.provenance[STATUS]) <= {"converged", "unconverged"}
    assert list(labelled.properties["band_gap"]) == [0.0, 0.1, 0.3]
    assert E_ABOVE_HULL not in labelled.properties


def test_failures_are_rows_with_a_reason(relaxed):
    """A failed structure would vanish without a trace."""
    path, _, rows = relaxed
    assert {row["id"]: row["status"] for row in rows}["too/close"] == "failed"
    with Ledger(path / "ledger.sqlite") as ledger:
        counts = ledger.counts(round=2)
        assert counts["candidate", "failed"] == 1
        assert ledger.reasons()["candidate", "atoms closer than 0.5 A"] == 1


def test_every_calculation_has_its_folder(relaxed):
    """The report would find no pictures or energies of a candidate."""
    path, labelled, _ = relaxed
    result = json.loads((path / "relax" / "l12" / "result.json").read_text())
    assert result["formula"] == "Cu3Au"
    assert result["formation_energy"] == pytest.approx(labelled.properties[FORMATION_ENERGY][0])
    assert result["formation_energy_before"] > result["formation_energy"]
    assert Structure.from_file(path / "relax" / "l12" / "relaxed.cif").composition.reduced_formula == "Cu3Au"
    failed = json.loads((path / "relax" / "too_close" / "result.json").read_text())
    assert (failed["status"], failed["formation_energy"]) == ("failed", None)
    assert not (path / "relax" / "too_close" / "relaxed.cif").exists()


def test_the_folder_of_a_calculation_that_was_run_again_tells_of_the_new_attempt(tmp_path):
    """After mending what made it fail, its folder would go on to show the old failure."""
    path, folder = tmp_path / "ledger.sqlite", tmp_path / "relax"
    told = []
    for retry in (False, False, True):
        relax_set(cu_au(), EMT_SPEC, SETTINGS, path, "candidate", backend=Local(1), folder=folder, retry=retry)
        told.append([(folder / name / "result.json").stat().st_mtime_ns for name in ("too_close", "b2")])
    assert told[0] == told[1] != told[2]
    assert told[0][1] == told[2][1]


def test_a_second_call_gives_the_same_set_from_the_ledger(relaxed):
    """A resumed run would relax everything again, or end with other labels."""
    path, labelled, _ = relaxed
    again = relax_set(cu_au(), EMT_SPEC, SETTINGS, path / "ledger.sqlite", "candidate", round=3)
    for name, column in labelled.properties.items():
        np.testing.assert_array_equal(again.properties[name], column)
    with Ledger(path / "ledger.sqlite") as ledger:
        assert ledger.counts(round=3) == {}


def test_a_set_that_is_closed_early_holds_those_that_have_ended(tmp_path):
    """Labels would go to other structures once some are missing."""
    slow = Structure(Lattice.cubic(3.7), ["Cu", "Cu", "Cu", "Au"], FCC) * (5, 5, 5)
    slow.perturb(0.1, seed=0)
    given = StructureSet.concatenate([StructureSet.from_structures([slow], ["slow"]), cu_au().subset([0, 1])])
    labelled = relax_set(
        given, EMT_SPEC, SETTINGS, tmp_path / "ledger.sqlite", "candidate", backend=Local(2), close_at=0.6
    )
    assert list(labelled.ids) == ["l12", "b2"]
    assert [s.composition.reduced_formula for s in labelled] == ["Cu3Au", "CuAu"]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ("candidate", "running") not in ledger.counts()


def test_labels_of_another_method_are_refused(tmp_path):
    """Energies of two methods would be trained on together."""
    foreign = cu_au().with_columns(provenance={METHOD: ["vasp-pbe-12345678", "", "", ""]})
    with pytest.raises(UserError, match=r"vasp-pbe-12345678.*different methods"):
        relax_set(foreign, EMT_SPEC, SETTINGS, tmp_path / "ledger.sqlite", "training")


def test_an_element_without_a_reference_leaves_its_structures_out(tmp_path):
    """One element outside of a calculator's range would stop a whole data set."""
    structures = [
        Structure(Lattice.cubic(3.0), ["Hf", "Ni"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        Structure(Lattice.cubic(3.6), ["Ni"] * 4, FCC),
    ]
    labelled = relax_set(
        StructureSet.from_structures(structures, ["hfni", "ni"]),
        EMT_SPEC,
        SETTINGS,
        tmp_path / "ledger.sqlite",
        "training",
        backend=Local(1),
    )
    assert list(labelled.ids) == ["ni"]


def test_the_ledger_gives_the_entries_of_a_hull(relaxed):
    """The hull would miss labels, or hold other energies than the training set."""
    path, labelled, _ = relaxed
    with Ledger(path / "ledger.sqlite") as ledger:
        entries = {entry.id: entry for entry in within(ledger_entries(ledger, EMT), ("Au", "Cu"), EMT, "x")}
        assert {e.id for e in entries.values() if e.role == "candidate"} == {"l12", "b2", "cu"}
        assert entries["l12"].formation_energy == pytest.approx(labelled.properties[FORMATION_ENERGY][0])
        assert entries["l12"].spacegroup == 221
        references = [e.formation_energy for e in entries.values() if e.role == "element"]
        assert min(references) == 0.0
        assert {e.id for e in within(ledger_entries(ledger, EMT), ("Au",), EMT, "x")}.isdisjoint({"l12", "b2"})
        with pytest.raises(UserError, match=f"no labels of chgnet-x .it holds labels of {EMT}"):
            ledger_entries(ledger, "chgnet-x")
        with pytest.raises(UserError, match="no reference energy of Ni"):
            within(ledger_entries(ledger, EMT), ("Au", "Ni"), EMT, "x")
