"""Energies of attempts above the hull of known phases, by EMT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.config import build_config
from voxtal.ledger import Ledger
from voxtal.runs import Run
from voxtal.screening.hull import build_hull
from voxtal.structures.structure_set import E_ABOVE_HULL, METHOD, StructureSet
from voxtal.workflows.energies import Energies, competing_phases, energies_above_known

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
L12 = Structure(Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], FCC)
L10 = Structure(Lattice.tetragonal(2.8, 3.7), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
B2 = Structure(Lattice.cubic(3.2), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
TOGETHER = Structure(Lattice.cubic(1.0), ["Au", "Cu"], [[0, 0, 0], [0.1, 0, 0]])


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
    attempts = StructureSet.from_structures([L12, L10, TOGETHER], ["l12", "b2", "together"])
    return run, energies_above_known(attempts, known, run, _quiet)


def _quiet(_what: str, _total: int) -> Any:
    from contextlib import nullcontext

    return nullcontext(lambda *_: None)


def test_only_phases_that_compete_are_labelled(known: StructureSet) -> None:
    """Relaxing every known structure would take days; leaving out a subsystem would lower no hull that it should."""
    attempts = StructureSet.from_structures([L12], ["a"])
    assert known.ids[competing_phases(attempts, known)].tolist() == ["b2"]
    ternary = Structure(Lattice.cubic(4), ["Au", "Cu", "Ag"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]])
    attempts = StructureSet.from_structures([ternary], ["a"])
    assert known.ids[competing_phases(attempts, known)].tolist() == ["b2", "ag"]


def test_labels_are_above_the_hull_of_the_known(found: tuple[Run, Energies]) -> None:
    """L1_0 and L1_2 are below a hull of B2 and the elements in EMT, and must not make up the hull they are held to."""
    _, energies = found
    assert set(energies.labels) == {"l12", "b2"}
    for label in energies.labels.values():
        assert label["e_above_hull_ev_per_atom"] < 0
        assert label["formation_energy_ev_per_atom"] <= label["formation_energy_before_ev_per_atom"]
        assert 0 <= label["rmsd_angstrom"] < 0.5
        assert label["n_competing"] == 1
    assert energies.redefined() == ["Au-Cu"]


def test_an_attempt_may_have_the_id_of_a_known_phase(found: tuple[Run, Energies]) -> None:
    """Files of other programs number their structures as they like."""
    hull = found[1].hull("Au-Cu")
    assert {entry["id"] for entry in hull["entries"] if len(entry["composition"]) > 1} == {
        "generated l12",
        "generated b2",
        "b2",
    }
    assert hull == build_hull(found[1].entries, "Au-Cu", found[1].method)


def test_nothing_is_calculated_twice(found: tuple[Run, Energies], known: StructureSet) -> None:
    """A second evaluation, or a larger sample, would cost as much as the first."""
    run, energies = found
    with Ledger(run.ledger) as ledger:
        before = ledger.counts()
    attempts = StructureSet.from_structures([L12, L10, TOGETHER], ["l12", "b2", "together"])
    again = energies_above_known(attempts, known, run, _quiet)
    with Ledger(run.ledger) as ledger:
        assert ledger.counts() == before
    assert again.labels == energies.labels
