"""Round 0's structures: what is trained on, what is set aside, what is dropped."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from voxtal.active.bootstrap import bootstrap, training_set, withheld_path
from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.ledger import Ledger
from voxtal.runs import Run
from voxtal.structures.phases import matches_phase
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, StructureSet


def labelled(structures: list[Any], energies: list[float]) -> StructureSet:
    ids = [f"s{i}" for i in range(len(structures))]
    return StructureSet.from_structures(structures, ids, properties={FORMATION_ENERGY: energies})


def test_what_is_not_trained_on(copper_gold: list[Any]) -> None:
    """Too high ones, what relaxed into a withheld phase (that would give its answer away), and duplicates."""
    first, second, third, fourth = copper_gold[-4:]
    doubled = second * (2, 1, 1)
    structures = labelled([first, second, doubled, third, fourth], [0.0, -0.1, -0.1, -0.2, 3.0])
    kept, dropped = training_set(structures, labelled([third], [-0.2]), 1.0)
    assert kept.ids.tolist() == ["s0", "s1"]
    assert dropped == {"too high in energy": 1, "equal to a withheld phase": 1, "relaxed into another": 1}


def test_structure_without_energy_stays(copper_gold: list[Any]) -> None:
    """NaN compares false to every limit, and autoencoders need no label."""
    structures = labelled(copper_gold[-2:], [np.nan, 0.0])
    kept, dropped = training_set(structures, structures.subset([]), 1.0)
    assert kept.ids.tolist() == ["s0", "s1"]
    assert set(dropped.values()) == {0}


def test_similar_structures_of_a_source_stay(copper_gold: list[Any]) -> None:
    """Two entries of a benchmark file that the matcher takes for one have an energy each."""
    structures = labelled([copper_gold[-1], copper_gold[-1] * (2, 1, 1)], [0.0, -0.1])
    kept, _ = training_set(structures, structures.subset([]), 1.0, relaxed=False)
    assert kept.ids.tolist() == ["s0", "s1"]


@pytest.fixture
def imported_run(tmp_path: Any, tiny: dict[str, Any], copper_gold: list[Any]) -> Run:
    (tmp_path / "given.json").write_text(json.dumps([structure.as_dict() for structure in copper_gold]))
    tiny["structures"]["source"] = "given.json"
    return Run(tmp_path, build_config(tiny))


def test_imported_structures_are_labelled_and_the_phase_withheld(imported_run: Run, quiet: Any) -> None:
    """Real relaxations by EMT: every structure has its energy and method, B2 CuAu is set aside and nowhere else."""
    paths = imported_run.round(0)
    paths.root.mkdir()
    counts = bootstrap(imported_run, paths, quiet, print)
    structures, withheld = StructureSet.read(paths.structures), StructureSet.read(withheld_path(paths))
    assert sum(counts[name] for name in ("train", "validation", "heldout")) == len(structures)
    assert counts["given"] == 24
    assert counts["withheld"] == len(withheld) == 1
    assert sum(v for k, v in counts.items() if k != "given") == 24
    assert matches_phase(withheld.structure(0), "AuCu 221")
    assert not any(matches_phase(structure, "AuCu 221") for structure in structures)
    assert np.isfinite(structures.properties[FORMATION_ENERGY]).all()
    assert len(set(structures.provenance[METHOD])) == 1
    with Ledger(imported_run.ledger) as ledger:
        counted = {(row["purpose"], row["status"]) for row in ledger.calculations()}
    assert {purpose for purpose, _ in counted} == {"element", "training", "withheld"}


def test_too_few_structures_are_refused(imported_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """Models of five structures are none; the message says what was dropped and why."""
    tiny["structures"] |= {"source": "given.json", "max_formation_energy_ev_per_atom": -5.0}
    run = Run(imported_run.root, build_config(tiny))
    paths = run.round(0)
    paths.root.mkdir()
    with pytest.raises(UserError, match=r"Only 0 structures are left to train on.*'too high in energy': 23"):
        bootstrap(run, paths, quiet, print)
    assert not paths.structures.exists()


def test_source_without_the_system_is_refused(imported_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """A file of another system."""
    tiny |= {"system": "Ni-Pd", "structures": {"source": "given.json"}}
    run = Run(imported_run.root, build_config(tiny))
    with pytest.raises(UserError, match=r"'given\.json' gives no structures of Ni-Pd"):
        bootstrap(run, run.round(0), quiet, print)


def test_hypothetical_structures_need_a_system(imported_run: Run, tiny: dict[str, Any], quiet: Any) -> None:
    """Every element into every prototype is no start."""
    del tiny["system"], tiny["structures"]["source"]
    run = Run(imported_run.root, build_config(tiny))
    with pytest.raises(UserError, match="needs a system"):
        bootstrap(run, run.round(0), quiet, print)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"heldout_fraction": 0.6, "validation_fraction": 0.4}, "below 1"), ({"labels": "source"}, "needs files")],
)
def test_settings_that_do_not_fit_together(tiny: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    """Nothing to train on, or labels of structures that have none, would show after the relaxations."""
    tiny["structures"] |= settings
    with pytest.raises(UserError, match=message):
        build_config(tiny)
