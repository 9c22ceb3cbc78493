"""Energies of attempts above the hull of known phases, by EMT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.config import build_config
from voxtal.ledger import Ledger
from voxtal.runs import Run
from voxtal.structures.structure_set import E_ABOVE_HULL, METHOD, StructureSet
from voxtal.workflows.energies import Energies, all_phases, competing_phases, energies_above_known

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
L12 = Structure(Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], FCC)
L10 = Structure(Lattice.tetragonal(2.8, 3.7), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
B2 = Structure(Lattice.cubic(3.2), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
TOGETHER = Structure(Lattice.cubic(1.0), ["Au", "Cu"], [[0, 0, 0], [0.1, 0, 0]])
STRAINED = Structure(Lattice.orthorhombic(3.26, 3.2, 3.2), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
TERNARY = Structure(Lattice.cubic(4.2), ["Au", "Cu", "Pd"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
ATTEMPTS = StructureSet.from_structures(
    [L12, L10, TOGETHER, STRAINED, TERNARY], ["l12", "b2", "together", "strained", "ternary"]
)


@pytest.fixture(scope="module")
def known() -> StructureSet:
    """Phases with labels of another method; some of other systems, one far above its hull."""
    pd, ag = (Structure(Lattice.cubic(3.9), [s, "Cu", "Cu", "Cu"], FCC) for s in ("Pd", "Ag"))
    return StructureSet.from_structures(
        [B2, pd, Structure(Lattice.cubic(3.6), ["Cu"] * 4, FCC), TOGETHER, ag],
        ["b2", "pd", "cu", "far", "ag"],
        properties={E_ABOVE_HULL: [0.0, 0.0, 0.0, 2.0, np.nan]},
        provenance={METHOD: ["another"] * 5},
    )


@pytest.fixture(scope="module")
def found(known: StructureSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Energies]:
    config = build_config({"relax": {"calculator": "emt", "workers": 1, "candidate_max_steps": 30}})
    run = Run(tmp_path_factory.mktemp("evaluate"), config)
    return run, energies_above_known(ATTEMPTS, known, run, _quiet, ["Ag-Cu", "Ag-Ni"])


def _quiet(_what: str, _total: int) -> Any:
    from contextlib import nullcontext

    return nullcontext(lambda *_: None)


def test_only_phases_that_compete_are_labelled(known: StructureSet) -> None:
    """Relaxing every known structure would take days; leaving out a subsystem would lower no hull that it should."""
    gold, copper, silver = 79, 29, 47
    assert known.ids[competing_phases([frozenset({gold, copper})], known)].tolist() == ["b2", "cu"]
    ternary = frozenset({gold, copper, silver})
    assert known.ids[competing_phases([ternary], known)].tolist() == ["b2", "cu", "ag"]


def test_labels_are_above_the_hull_of_the_known(found: tuple[Run, Energies]) -> None:
    """L1_0 and L1_2 are below a hull of B2 and the elements in EMT, and must not make up the hull they are held to."""
    _, energies = found
    assert set(energies.labels) == {"l12", "b2", "strained", "ternary"}
    for label in (energies.labels["l12"], energies.labels["b2"]):
        assert label["e_above_hull_ev_per_atom"] < 0
        assert label["formation_energy_ev_per_atom"] <= label["formation_energy_before_ev_per_atom"]
        assert 0 <= label["rmsd_angstrom"] < 0.5
        assert (label["n_competing"], label["subsystems_without_known"], label["relaxed_into"]) == (1, "", "")
        assert label["new_phase"]
    assert energies.new == ["Au-Cu"]


def test_what_relaxes_into_a_known_phase_is_no_new_one(found: tuple[Run, Energies]) -> None:
    """A known phase that relaxes from another side, and ends a little lower, would be announced as a discovery."""
    _, energies = found
    label = energies.labels["strained"]
    assert (label["relaxed_into"], label["new_phase"]) == ("b2", False)
    told = {row["id"]: row["same_as"] for row in energies.hull("Au-Cu")["entries"]}
    assert told["generated strained"] == "b2"
    assert told["generated l12"] == ""


def test_rows_name_the_systems_in_which_nothing_is_known(found: tuple[Run, Energies]) -> None:
    """A hull that lacks a side would be taken for complete."""
    label = found[1].labels["ternary"]
    assert label["n_competing"] == 2
    assert label["subsystems_without_known"] == "Au-Pd Au-Cu-Pd"


def test_systems_without_attempts_have_hulls_too(found: tuple[Run, Energies]) -> None:
    """A system that was asked for, in which nothing was generated, would have no panel, or one without its phases."""
    _, energies = found
    assert {row["id"] for row in energies.hull("Ag-Cu")["entries"]} >= {"ag", "element-Ag"}
    assert energies.hull("Ag-Ni")["hull"] == ["element-Ag", "element-Ni"]


def test_phases_of_several_files_count_once() -> None:
    """A phase in two files would be relaxed twice, and one of another file whose ids are row numbers would be lost."""
    one = StructureSet.from_structures([B2], ["1"])
    more = {
        "b.csv": StructureSet.from_structures([B2, L12], ["1", "2"]),
        "c.csv": StructureSet.from_structures([TOGETHER * (1, 1, 2), L12], ["1", "2"]),
    }
    found = all_phases(one, more)
    assert found.ids.tolist() == ["1", "2", "c.csv 1"]


def test_an_attempt_may_have_the_id_of_a_known_phase(found: tuple[Run, Energies]) -> None:
    """Files of other programs number their structures as they like."""
    hull = found[1].hull("Au-Cu")
    before = {e["id"]: e["formation_energy_before_ev_per_atom"] for e in hull["entries"]}
    assert before["generated l12"] is not None
    assert before["b2"] is None
    assert {entry["id"] for entry in hull["entries"] if len(entry["composition"]) > 1} == {
        "generated l12",
        "generated b2",
        "generated strained",
        "b2",
    }


def test_nothing_is_calculated_twice(found: tuple[Run, Energies], known: StructureSet) -> None:
    """A second evaluation, or a larger sample, would cost as much as the first."""
    run, energies = found
    with Ledger(run.ledger) as ledger:
        before = ledger.counts()
    again = energies_above_known(ATTEMPTS, known, run, _quiet)
    with Ledger(run.ledger) as ledger:
        assert ledger.counts() == before
    assert again.labels == energies.labels
