"""What is read for round 0: files, the first of each id, and by what their labels are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.io.cif import CifWriter

from voxtal.active.bootstrap import bootstrap, withheld_path
from voxtal.active.sources import files_fingerprint, source_structures, with_method, within_system
from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.runs import Run
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, StructureSet


def labelled(structures: list[Any], energies: list[float]) -> StructureSet:
    ids = [f"s{i}" for i in range(len(structures))]
    return StructureSet.from_structures(structures, ids, properties={FORMATION_ENERGY: energies})


def test_within_system(copper_gold: list[Any]) -> None:
    """A ternary, or another binary, in the training set of Cu-Au; its elements belong there."""
    other = copper_gold[-1].copy()
    other.replace(0, "Pd")
    structures = labelled([*copper_gold, other], [0.0] * (len(copper_gold) + 1))
    assert len(within_system(structures, "Cu-Au")) == len(copper_gold)
    assert len(within_system(structures, None)) == len(copper_gold) + 1
    gold = within_system(structures, "Au")
    assert 0 < len(gold) < len(copper_gold)
    assert set(gold.numbers.tolist()) == {79}


def as_csv(path: Path, structures: list[Any], ids: list[str], energies: list[object]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "formation_energy_per_atom", "band_gap"])
        for structure, id_, energy in zip(structures, ids, energies, strict=True):
            writer.writerow([id_, CifWriter(structure), energy, 0.25])
    return path


def test_labels_of_the_source(tmp_path: Path, tiny: dict[str, Any], copper_gold: list[Any], quiet: Any) -> None:
    """Structures that are relaxed after all, numbers that are lost on the way, or a row counted twice.

    Two files with one id in common, one value missing and one too high; the withheld phase is still set aside.
    """
    ids = [f"m-{i}" for i in range(24)]
    energies: list[object] = [-0.01 * (i + 1) for i in range(24)]
    energies[3], energies[5] = "", 4.0
    first = as_csv(tmp_path / "first.csv", copper_gold[:14], ids[:14], energies[:14])
    second = as_csv(tmp_path / "second.csv", copper_gold[13:], ids[13:], energies[13:])
    tiny["structures"] |= {"source": ["first.csv", "second.csv"], "labels": "source"}
    run = Run(tmp_path, build_config(tiny))
    paths = run.round(0)
    said: list[str] = []
    counts = bootstrap(run, paths, quiet, said.append)
    structures = StructureSet.read(paths.structures)
    assert said == ["structures.source: 25 read, 1 dropped: duplicate id, 24 kept"]
    assert "duplicate id" in (paths.root / "given.dropped.csv").read_text()
    assert sorted(structures.ids) == sorted(set(ids) - {"m-5", "m-23"})
    assert StructureSet.read(withheld_path(paths)).ids.tolist() == ["m-23"]
    assert {name: counts[name] for name in ("given", "withheld", "too high in energy")} == {
        "given": 24,
        "withheld": 1,
        "too high in energy": 1,
    }
    assert counts["of these without a formation energy"] == 1
    for i, id_ in enumerate(structures.ids.tolist()):
        given = float(energies[ids.index(id_)] or "nan")
        assert structures.properties[FORMATION_ENERGY][i] == pytest.approx(given, nan_ok=True)
    assert set(structures.properties["band_gap"]) == {0.25}
    assert set(structures.provenance[METHOD]) == {files_fingerprint([second, first])}
    assert not run.ledger.exists()


def test_labels_that_cannot_be_compared_are_refused(
    tmp_path: Path, tiny: dict[str, Any], copper_gold: list[Any], quiet: Any
) -> None:
    """Formation energies against other references, 2 eV/atom higher: a constraint would learn neither."""
    as_csv(tmp_path / "one.csv", copper_gold[:14], [f"a{i}" for i in range(14)], [-0.1] * 14)
    as_csv(tmp_path / "other.csv", copper_gold[10:], [f"b{i}" for i in range(14)], [1.9] * 14)
    tiny["structures"] = {"source": ["one.csv", "other.csv"], "labels": "source"}
    run = Run(tmp_path, build_config(tiny))
    with pytest.raises(UserError, match=r"have 4 structures in common.*differ by \+2\.00 eV/atom .*unlabelled_source"):
        source_structures(run, run.round(0), print)
    tiny["structures"] |= {"source": "one.csv", "unlabelled_source": "other.csv"}
    run = Run(tmp_path, build_config(tiny))
    paths = run.round(0)
    counts = bootstrap(run, paths, quiet, print)
    structures = StructureSet.read(paths.structures)
    assert len(structures) == 28
    assert counts["of these without a formation energy"] == 14
    for column in structures.properties.values():
        assert np.isnan(column).tolist() == [id_.startswith("b") for id_ in structures.ids.tolist()]


def test_method_of_labels_is_the_one_that_the_file_tells(tmp_path: Path, copper_gold: list[Any]) -> None:
    """Sets that `voxtal relax` labelled could not be augmented; labels of two methods would be learned as one."""
    plain = labelled(copper_gold[:3], [0.0, np.nan, 0.1])
    told = plain.with_columns(provenance={METHOD: ["emt-x", "", "emt-x"]})
    assert with_method(told, "source:1").provenance[METHOD].tolist() == ["emt-x"] * 3
    assert with_method(plain, "source:1").provenance[METHOD].tolist() == ["source:1"] * 3
    with pytest.raises(UserError, match="labels of an unknown method, emt-x"):
        with_method(StructureSet.concatenate([told, plain.subset([0])]), "source:1")


def test_fingerprint_is_that_of_the_contents(tmp_path: Path) -> None:
    """A moved file would be another method, or a changed one the same."""
    (tmp_path / "a").write_text("labels")
    first = files_fingerprint([tmp_path])
    assert first == files_fingerprint([tmp_path / "a"])
    (tmp_path / "a").write_text("other labels")
    assert files_fingerprint([tmp_path]) != first
