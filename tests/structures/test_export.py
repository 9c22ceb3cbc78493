from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from monty.serialization import loadfn
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from voxtal.errors import UserError
from voxtal.structures.cif import parse_cif
from voxtal.structures.export import entries_of, export_labelled, file_names, write_cif
from voxtal.structures.matching import STRICT, Matcher
from voxtal.structures.phases import with_spacegroup
from voxtal.structures.structure_set import (
    E_ABOVE_HULL,
    ENERGY_PER_ATOM,
    FORMATION_ENERGY,
    METHOD,
    STATUS,
    StructureSet,
)
from voxtal.workflows.labels import with_e_above_hull

REFERENCES = {"Al": -3.7, "Cr": -9.5, "Ni": -5.8}


def labelled(structures: list[Structure], formation: list[float], ids: list[str]) -> StructureSet:
    against = [sum(REFERENCES[s.specie.symbol] for s in structure) / len(structure) for structure in structures]
    return StructureSet.from_structures(
        structures,
        ids,
        properties={
            FORMATION_ENERGY: formation,
            ENERGY_PER_ATOM: np.array(against) + formation,
            "band_gap": [np.nan] * len(ids),
        },
        provenance={METHOD: ["emt-x"] * len(ids), STATUS: ["converged"] * len(ids)},
    )


def nickel_aluminides() -> StructureSet:
    random = np.random.default_rng(0)
    structures = []
    for n in range(40):
        species = random.choice(list(REFERENCES), 2, replace=False).tolist()
        species += random.choice(list(REFERENCES), random.integers(0, 7)).tolist()
        structures.append(Structure(Lattice.cubic(3.0 + n / 10), species, random.random((len(species), 3))))
    return with_e_above_hull(
        labelled(structures, random.normal(-0.2, 0.2, 40).tolist(), [f"r0/{n}" for n in range(40)])
    )


def elements() -> StructureSet:
    pure = [Structure(Lattice.cubic(2.9), [symbol], [[0, 0, 0]]) for symbol in REFERENCES]
    return labelled(pure, [0.0] * 3, [f"element-{symbol}" for symbol in REFERENCES])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[StructureSet, Path]:
    folder = tmp_path_factory.mktemp("export") / "relaxed"
    structures = nickel_aluminides()
    export_labelled(structures, folder, elements())
    return structures, folder


def test_entries_make_the_same_phase_diagram_in_pymatgen(exported):
    """Other programs would see other stabilities than voxtal's."""
    structures, folder = exported
    entries = loadfn(folder / "entries.json")
    assert all(isinstance(entry, ComputedStructureEntry) for entry in entries)
    assert {entry.parameters["voxtal_method"] for entry in entries} == {"emt-x"}
    diagram = PhaseDiagram(entries)
    for i, entry in enumerate(entries[: len(structures)]):
        assert entry.entry_id == structures.ids[i]
        assert entry.data["status"] == "converged"
        assert diagram.get_e_above_hull(entry) == pytest.approx(structures.properties[E_ABOVE_HULL][i], abs=1e-9)
        assert diagram.get_e_above_hull(entry) == pytest.approx(entry.data["e_above_hull_per_atom"], abs=1e-9)
        assert diagram.get_form_energy_per_atom(entry) == pytest.approx(entry.data["formation_energy_per_atom"])
        assert entry.structure.composition == entry.composition


def test_extxyz_has_the_energies(exported):
    """ASE would read no energies, or those of an atom for those of a cell."""
    structures, folder = exported
    frames = read(folder / "relaxed.extxyz", index=":")
    assert len(frames) == len(structures)
    for i, atoms in enumerate(frames):
        assert atoms.info["id"] == structures.ids[i]
        assert atoms.info["method"] == "emt-x"
        assert atoms.info["formation_energy"] == pytest.approx(structures.properties[FORMATION_ENERGY][i])
        assert atoms.get_potential_energy() == pytest.approx(structures.properties[ENERGY_PER_ATOM][i] * len(atoms))
        assert "band_gap" not in atoms.info
        np.testing.assert_allclose(atoms.cell.array, structures.cells[i], atol=1e-6)


def test_every_structure_has_a_cif_and_a_row(exported):
    """A structure would be missing from the folder that a user shares."""
    structures, folder = exported
    assert len(list((folder / "cif").glob("*.cif"))) == len(structures)
    assert (folder / "cif" / "r0_3.cif").read_text().count("data_r0/3") == 1
    rows = list(csv.DictReader((folder / "table.csv").open()))
    assert [row["id"] for row in rows] == structures.ids.tolist()
    assert float(rows[5]["energy_ev_per_atom"]) == pytest.approx(structures.properties[ENERGY_PER_ATOM][5], abs=1e-6)
    assert rows[5]["band_gap"] == ""
    assert StructureSet.read(folder / "relaxed.h5").ids.tolist() == structures.ids.tolist()


def test_cifs_of_real_structures_come_back(real_set, tmp_path):
    """A symmetrised CIF would hold another crystal, less symmetry, or what our own reader or pymatgen cannot read."""
    matcher = Matcher(STRICT)
    symmetric = 0
    rows = range(0, len(real_set), max(1, len(real_set) // 40))
    for i in rows:
        structure = real_set.structure(i)
        write_cif(structure, f"no {i}", tmp_path / "one.cif")
        text = (tmp_path / "one.cif").read_text()
        assert f"data_no_{i}\n" in text
        numbers, frac_coords, cell = parse_cif(text)
        ours = Structure(Lattice(cell), numbers.tolist(), frac_coords)
        theirs = Structure.from_str(text, fmt="cif")
        for again in (ours, theirs):
            assert matcher.matches(structure, again), (i, structure.composition)
        number = with_spacegroup(structure, 0.01)
        assert re.search(rf"^_symmetry_Int_Tables_number\s+{number}$", text, re.MULTILINE)
        operations = re.findall(r"^\s*\d+\s+'([-+/\d xyz]+,[-+/\d xyz]+,[-+/\d xyz]+)'$", text, re.MULTILINE)
        assert (len(operations) > 1) == (number > 1)
        symmetric += number > 2 and operations[0].replace(" ", "") == "x,y,z"
    assert symmetric > len(rows) // 2


@pytest.mark.parametrize("n_atoms", [1, 7])
def test_cifs_of_any_symmetry_come_back(tmp_path, n_atoms):
    """P1 and the highest symmetry are the two ends: a general cell, and one atom in a cubic one."""
    random = np.random.default_rng(n_atoms)
    lattice = Lattice.cubic(2.9) if n_atoms == 1 else Lattice.from_parameters(5.1, 6.2, 7.3, 81, 97, 108)
    structure = Structure(lattice, ["Ni"] * n_atoms, random.random((n_atoms, 3)))
    write_cif(structure, "one", tmp_path / "one.cif")
    again = Structure.from_file(tmp_path / "one.cif")
    assert Matcher(STRICT).matches(structure, again)
    assert with_spacegroup(again) == (221 if n_atoms == 1 else 1)


def test_file_names_never_collide():
    """One structure's CIF would overwrite another's."""
    assert file_names(["a/b", "a_b", "A_B", "c"]) == ["a_b", "a_b-2", "A_B-3", "c"]


def test_a_set_without_labels_is_told(tmp_path):
    """A KeyError where `voxtal relax` was forgotten."""
    structures = StructureSet.from_structures([Structure(Lattice.cubic(3), ["Ni"], [[0, 0, 0]])], ["a"])
    with pytest.raises(UserError, match="no energy_per_atom, formation_energy, method"):
        export_labelled(structures, tmp_path)
    assert entries_of(elements())[0].energy == pytest.approx(REFERENCES["Al"])
