"""Importing: every format, and every way in which a row or a file can be wrong."""

from __future__ import annotations

import csv
import gzip
import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from voxtal.errors import UserError
from voxtal.structures.filters import Selection
from voxtal.structures.importers import ImportResult, import_structures, write_dropped
from voxtal.structures.structure_set import E_ABOVE_HULL, FORMATION_ENERGY, METHOD, SOURCE, StructureSet

B2 = Structure(Lattice.cubic(3.16), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = str(CifWriter(B2))
AS_GIVEN = Selection("given", max_atoms=None, max_length=None)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def reasons(result: ImportResult) -> dict[str, str]:
    return {row.id: row.reason for row in result.dropped}


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_table(tmp_path: Path, name: str) -> None:
    """Benchmark column names become voxtal's, other numbers stay, text does not."""
    rows = [
        {
            "material_id": "a",
            "cif": CIF,
            "heat_all": "-0.3",
            "energy_above_hull": "",
            "year": "2004",
            "note": "x",
        },
        {"material_id": "b", "cif": CIF, "heat_all": "", "energy_above_hull": "0.1", "year": "", "note": "2"},
    ]
    path = write_table(tmp_path / name, rows)
    structures = import_structures([path]).structures
    assert structures.ids.tolist() == ["a", "b"]
    assert structures.properties.keys() == {FORMATION_ENERGY, E_ABOVE_HULL, "year"}
    assert structures.properties[FORMATION_ENERGY][0] == -0.3
    assert np.isnan(structures.properties[FORMATION_ENERGY][1])
    assert structures.properties["year"][0] == 2004
    assert structures.provenance[SOURCE].tolist() == [f"{path}:1", f"{path}:2"]
    assert structures.structure(1).matches(B2)


def test_explicit_columns(tmp_path: Path) -> None:
    """Tables whose columns are not known by name can be mapped."""
    path = write_table(tmp_path / "t.csv", [{"key": "a", "text": CIF, "dH": "-0.5", "bulk": "120"}])
    mapping = ["id=key", "cif=text", "formation_energy=dH", "bulk_modulus=bulk"]
    structures = import_structures([path], mapping).structures
    assert structures.ids.tolist() == ["a"]
    assert structures.properties.keys() == {FORMATION_ENERGY, "bulk_modulus"}


def test_bad_rows_are_recorded(tmp_path: Path) -> None:
    """One bad row costs that row, is found again by its number, and says why."""
    huge = str(CifWriter(Structure(Lattice.cubic(11), ["Co"], [[0, 0, 0]])))
    bad = {
        "garbage": ("not a cif", "-0.1", "CIF does not parse"),
        "empty": ("", "-0.1", "no atoms"),
        "partial": (CIF.replace("0.50000000  1", "0.50000000  0.5"), "-0.1", "partial occupancy"),
        "element": (CIF.replace("Hf  Hf1", "X  X1"), "-0.1", "unknown element"),
        "site": (CIF.replace("0.50000000  1", "nan  1"), "-0.1", "not finite"),
        "cell": (CIF.replace("_cell_length_a   3.16000000", "_cell_length_a   nan"), "-0.1", "not finite"),
        "flat": (CIF.replace("angle_gamma   90.0", "angle_gamma   0.0"), "-0.1", "volume below 0.1 A^3"),
        "overlap": (CIF.replace("0.50000000", "0.00000000"), "-0.1", "atoms closer than 0.5 A"),
        "huge": (huge, "-0.1", "lattice constant above 10 A"),
        "nan": (CIF, "nan", "formation energy not a number"),
        "inf": (CIF, "inf", "formation energy not a number"),
        "word": (CIF, "n/a", "formation energy not a number"),
        "good": (CIF, "-0.1", "duplicate id"),
    }  # fmt: skip
    rows = [{"id": "good", "cif": CIF, "formation_energy": "-0.2"}]
    rows += [{"id": key, "cif": cif, "formation_energy": energy} for key, (cif, energy, _) in bad.items()]
    result = import_structures([write_table(tmp_path / "t.csv", rows)])
    assert reasons(result) == {key: reason for key, (*_, reason) in bad.items()}
    assert result.structures.ids.tolist() == ["good"]
    assert result.read == len(rows) == len(result.structures) + len(result.dropped)
    assert result.dropped[0].source.endswith("t.csv:2")
    write_dropped(tmp_path / "d.csv", result.dropped)
    with open(tmp_path / "d.csv", newline="") as handle:
        written = list(csv.DictReader(handle))
    assert [row["reason"] for row in written] == [row.reason for row in result.dropped]
    assert written[0].keys() == {"source", "id", "reason", "detail"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One crystal in every format, in sub-folders, with bad files among them."""
    from ase import Atoms
    from ase.io import write

    root = tmp_path / "files"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "a.cif").write_text(CIF)
    (root / "two.cif").write_text(CIF + "\n" + re.sub("data_.*", "data_other", CIF))
    (root / "deep" / "POSCAR").write_text(Poscar(B2).get_str())
    (root / "deep" / "er" / "b.vasp").write_text(Poscar(B2).get_str())
    atoms = Atoms("CoHf", cell=[3.16] * 3, scaled_positions=[[0, 0, 0], [0.5] * 3], pbc=True)
    atoms.info["formation_energy_per_atom"] = -0.25
    write(root / "frames.extxyz", [atoms, atoms])
    (root / "c.json").write_text(json.dumps(B2.as_dict()))
    (root / "empty.cif").write_text("")
    (root / "binary.cif").write_bytes(b"\xff\xfe\x00data")
    (root / "CONTCAR_old").write_text(Poscar(B2).get_str(vasp4_compatible=True).replace("Co", "").replace("Hf", ""))
    (root / "broken.vasp").write_text("what\n1.0\nis this")
    (root / "notes.txt").write_text("not a structure")
    (root / ".hidden.cif").write_text(CIF)
    return root


def test_folder(folder: Path) -> None:
    """Folders are read to their depth; every file becomes structures or a reason."""
    result = import_structures([folder], selection=AS_GIVEN)
    assert sorted(result.structures.ids.tolist()) == [
        "a.cif",
        "c.json",
        "deep/POSCAR",
        "deep/er/b.vasp",
        "frames.extxyz-1",
        "frames.extxyz-2",
        "two.cif-HfCo",
        "two.cif-other",
    ]
    for structure in result.structures:
        assert structure.matches(B2, scale=False, stol=0.01, ltol=0.001)
    assert reasons(result) == {
        "empty.cif": "empty file",
        "binary.cif": "file cannot be read",
        "CONTCAR_old": "unknown element",
        "broken.vasp": "POSCAR does not parse",
    }
    energies = dict(zip(result.structures.ids, result.structures.properties[FORMATION_ENERGY], strict=True))
    assert energies["frames.extxyz-2"] == -0.25


def test_json_entries(tmp_path: Path) -> None:
    """Entries with a structure and labels, as mp-api and matbench dump them."""
    disordered = Structure(Lattice.cubic(3), [{"Co": 0.5, "Hf": 0.5}], [[0, 0, 0]])
    dummy = Structure(Lattice.cubic(3), ["X0+"], [[0, 0, 0]])
    entries = [
        {"material_id": "m-1", "structure": B2.as_dict(), "formation_energy_per_atom": -0.4, "tags": ["a"]},
        {"material_id": "m-2", "structure": disordered.as_dict(), "formation_energy_per_atom": -0.4},
        {"material_id": "m-3", "structure": dummy.as_dict(), "formation_energy_per_atom": -0.4},
        {"material_id": "m-4", "structure": {"what": 1}, "formation_energy_per_atom": None},
        {"material_id": "m-5", "structure": B2.as_dict(), "formation_energy_per_atom": None},
    ]
    (tmp_path / "e.json").write_text(json.dumps(entries))
    result = import_structures([tmp_path / "e.json"])
    assert result.structures.ids.tolist() == ["m-1", "m-5"]
    assert result.structures.properties[FORMATION_ENERGY][0] == -0.4
    assert reasons(result) == {
        "m-2": "partial occupancy",
        "m-3": "unknown element",
        "m-4": "not a structure",
    }


def test_large_cells_are_reduced_or_dropped(tmp_path: Path) -> None:
    """The limit on atoms is on the primitive cell; one that cannot shrink is dropped without asking spglib."""
    supercell = B2 * (1, 1, 11)
    odd = supercell.copy()
    odd.translate_sites(0, [0.02, 0.03, 0.005])
    balanced = supercell.copy()
    balanced.replace(0, "Hf")
    balanced.replace(len(B2) * 11 - 1, "Co")
    rows = [
        {"id": name, "cif": str(CifWriter(structure))}
        for name, structure in (("same", supercell), ("moved", odd), ("swapped", balanced))
    ]
    result = import_structures([write_table(tmp_path / "t.csv", rows)])
    assert result.structures.ids.tolist() == ["same"]
    assert len(result.structures.structure(0)) == 2
    dropped = [(row.id, row.reason, row.detail) for row in result.dropped]
    assert dropped == [(name, "more than 20 atoms", "22 atoms") for name in ("moved", "swapped")]


def test_structure_set_comes_in_unchanged(tmp_path: Path) -> None:
    """Labels keep their method: labels of different methods must never meet on one hull."""
    original = StructureSet.from_structures(
        [B2, B2],
        ["a", "b"],
        {FORMATION_ENERGY: [-0.3, np.nan]},
        {METHOD: ["chgnet-1", ""], SOURCE: ["here", ""]},
    )
    original.write(tmp_path / "s.h5")
    read = import_structures([tmp_path / "s.h5"], selection=AS_GIVEN).structures
    assert np.array_equal(read.frac_coords, original.frac_coords)
    assert np.array_equal(read.cells, original.cells)
    assert np.array_equal(read.properties[FORMATION_ENERGY], [-0.3, np.nan], equal_nan=True)
    assert read.provenance[METHOD].tolist() == ["chgnet-1", ""]
    assert read.provenance[SOURCE].tolist() == ["here", f"{tmp_path / 's.h5'}:2"]


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Files that nothing can be read from, and what the message must say."""
    (folder / "empty.csv").write_text("")
    (folder / "header.csv").write_text("id,cif\n")
    (folder / "nocif.csv").write_text("id,formula\n1,CoHf\n")
    (folder / "plain.csv.gz").write_text("id,cif\n")
    (folder / "latin.csv").write_bytes("id,cif,note\n1,x,caf\xe9\n".encode("latin-1"))
    (folder / "cut.csv.gz").write_bytes(gzip.compress(b"id,cif\n" + b"1,x\n" * 999)[:-20])
    (folder / "empty.cif").write_text("\n")
    (folder / "some.pdf").write_text("x")
    (folder / "not.h5").write_text("x")
    (folder / "nothing").mkdir()
    return {
        "missing": (folder / "missing.csv", "no file or folder"),
        "empty": (folder / "empty.csv", "empty"),
        "header only": (folder / "header.csv", "no rows"),
        "no cif column": (folder / "nocif.csv", "no CIF column.*formula"),
        "not gzip": (folder / "plain.csv.gz", "not gzip"),
        "encoding": (folder / "latin.csv", "not UTF-8"),
        "cut gzip": (folder / "cut.csv.gz", "broken gzip"),
        "empty cif": (folder / "empty.cif", "empty"),
        "unknown format": (folder / "some.pdf", "cannot be told"),
        "not a set": (folder / "not.h5", "cannot be read"),
        "empty folder": (folder / "nothing", "holds no"),
    }


def test_wrong_files_are_named(tmp_path: Path) -> None:
    """Wrong input is one line that names the file, never a traceback."""
    for path, message in wrong_files(tmp_path).values():
        with pytest.raises(UserError, match=message) as caught:
            import_structures([path])
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("formation_energy=heat_al", "Did you mean 'heat_all'.*id, cif, heat_all"),
        ("formation_energy", "NAME=COLUMN"),
    ],
)
def test_wrong_column_option(tmp_path: Path, option: str, message: str) -> None:
    """A typo in --column is told with the columns that are there."""
    path = write_table(tmp_path / "t.csv", [{"id": "a", "cif": CIF, "heat_all": "0"}])
    with pytest.raises(UserError, match=message):
        import_structures([path], [option])


def test_result_does_not_depend_on_processes(tmp_path: Path) -> None:
    """More cores must give the same data set, in the same order."""
    energies = [str(-i / 1000) if i % 7 else "nan" for i in range(1100)]
    rows = [{"id": f"s{i % 1050}", "cif": CIF, "formation_energy": e} for i, e in enumerate(energies)]
    path = write_table(tmp_path / "t.csv", rows)
    seen: list[int] = []
    one = import_structures([path], selection=AS_GIVEN, workers=1)
    two = import_structures([path], selection=AS_GIVEN, workers=2, progress=seen.append)
    assert one.dropped == two.dropped
    assert one.structures.ids.tolist() == two.structures.ids.tolist()
    assert np.array_equal(one.structures.frac_coords, two.structures.frac_coords)
    assert seen[-1] == two.read == 1100


def test_shared_files_come_in_whole(shared_data: Path, tmp_path: Path) -> None:
    """The benchmark files' own columns are known: no option is needed and no row is lost."""
    for name in ("mp_20_binary_ternary", "mpts_52", "perov_5"):
        with gzip.open(shared_data / f"{name}.csv.gz", "rt") as handle:
            rows = list(islice(csv.DictReader(handle), 60))
        result = import_structures([write_table(tmp_path / f"{name}.csv", rows)], selection=AS_GIVEN)
        assert not result.dropped
        assert np.isfinite(result.structures.properties[FORMATION_ENERGY]).all()


@pytest.mark.slow
def test_all_shared_rows(shared_data: Path) -> None:
    """All 30,441 real rows are crystals to us: whatever the selection drops, reading drops nothing."""
    result = import_structures(sorted(shared_data.glob("*.csv.gz")), selection=AS_GIVEN)
    assert result.read == len(result.structures) == 30441
