"""ICSG3D's selection: cubic AB, ABX3 and Heuslers, as conventional cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from voxtal.config import StructuresConfig, build_config
from voxtal.structures.filters import Selection, conventional_cell, primitive_cell
from voxtal.structures.formula_classes import CLASSES, class_of, is_cubic
from voxtal.structures.importers import import_structures, select
from voxtal.structures.structure_set import StructureSet

B2 = Structure(Lattice.cubic(3.16), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ROCK_SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
)
HEUSLER = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.65), ["Mn", "Si", "Co"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]]
)
HALF_HEUSLER = Structure.from_spacegroup(
    "F-43m", Lattice.cubic(5.88), ["Ti", "Ni", "Sn"], [[0, 0, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0.5]]
)
WURTZITE = Structure.from_spacegroup(
    "P6_3mc", Lattice.hexagonal(3.82, 6.26), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.375]]
)
LAVES = Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.9), ["Hf", "Co"], [[0] * 3, [0.625] * 3])


def arrays(structure: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix


def stretched(structure: Any, angstrom: float) -> Any:
    """Along c, everything on it."""
    a, b, c = structure.lattice.abc
    return Structure(Lattice.orthorhombic(a, b, c + angstrom), structure.species, structure.frac_coords)


NAMED = {
    "b2": B2,
    "rock-salt": ROCK_SALT,
    "perovskite": PEROVSKITE,
    "heusler": HEUSLER,
    "half-heusler": HALF_HEUSLER,
    "wurtzite": WURTZITE,
    "laves": LAVES,
    "tetragonal": stretched(PEROVSKITE, 0.3),
    "nearly": stretched(PEROVSKITE, 0.03),
}


def selected(**settings: Any) -> tuple[dict[str, int], dict[str, tuple[str, str]]]:
    """Atoms of what is kept, reason and detail of what is not, by name."""
    selection = Selection.of(build_config({"structures": settings}).structures)
    result = select(StructureSet.from_structures(list(NAMED.values()), list(NAMED)), selection)
    counts = np.diff(result.structures.offsets).tolist()
    assert result.read == len(NAMED) == len(counts) + len(result.dropped)
    return dict(zip(result.structures.ids.tolist(), counts, strict=True)), {
        row.id: (row.reason, row.detail) for row in result.dropped
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("b2", "AB"),
        ("rock-salt", "AB"),
        ("wurtzite", "AB"),
        ("perovskite", "ABX3"),
        ("heusler", "Heusler"),
        ("half-heusler", None),
        ("laves", None),
    ],
)
def test_class_of_any_cell(name: str, expected: str | None) -> None:
    """The formula's, in whichever cell the structure comes."""
    given = arrays(NAMED[name])
    assert class_of(given[0]) == expected
    assert class_of(primitive_cell(*given)[0]) == expected
    assert class_of(np.tile(given[0], 3)) == expected


def test_names_are_those_of_the_configuration() -> None:
    """A class that can be asked for and is not there, or is there and cannot be asked for."""
    annotation = StructuresConfig.model_fields["classes"].annotation
    assert set(get_args(get_args(annotation)[0])) == set(CLASSES)


def test_published_selection() -> None:
    """Cubic crystals of three formulas in conventional cells; everything else with its reason."""
    kept, dropped = selected(classes=["AB", "ABX3", "Heusler"], cell="conventional", max_atoms=40)
    assert kept == {"b2": 2, "rock-salt": 8, "perovskite": 5, "heusler": 16, "nearly": 5}
    assert dropped["wurtzite"] == ("not cubic", "AB, space group 186")
    assert dropped["tetragonal"] == ("not cubic", "ABX3, space group 123")
    assert dropped["laves"] == ("not of the classes AB, ABX3, Heusler", "AB2")
    assert dropped["half-heusler"] == ("not of the classes AB, ABX3, Heusler", "ABC")


def test_one_class_any_symmetry() -> None:
    """What goes beyond the paper: formulas without their symmetry, one class alone, no class at all."""
    kept, dropped = selected(classes="ABX3", only_cubic=False)
    assert kept == {"perovskite": 5, "tetragonal": 5, "nearly": 5}
    assert dropped["b2"] == ("not of the classes ABX3", "AB")
    assert selected()[1] == {}
    assert selected(cell="conventional", max_atoms=40)[0]["laves"] == 24


def test_limits_are_on_the_kept_cell() -> None:
    """A rock salt of two atoms would pass a limit that its eight do not, or the other way round."""
    limit = {"classes": ["AB", "Heusler"], "max_atoms": 7}
    assert set(selected(**limit)[0]) == {"b2", "rock-salt", "heusler"}
    kept, dropped = selected(cell="conventional", **limit)
    assert set(kept) == {"b2"}
    assert dropped["heusler"] == ("more than 7 atoms", "16 atoms")


@pytest.mark.parametrize("name", ["b2", "rock-salt", "perovskite", "heusler", "nearly"])
def test_conventional_cells_of_cubic_crystals_are_cubes(name: str) -> None:
    """Density maps take a cell's edges for its axes: a cell that is not quite a cube would be distorted."""
    structure = NAMED[name]
    for given in (arrays(structure), primitive_cell(*arrays(structure))):
        numbers, frac_coords, cell = conventional_cell(*given)
        assert np.allclose(cell, np.eye(3) * cell[0, 0], atol=1e-9)
        assert Structure(Lattice(cell), numbers.tolist(), frac_coords).matches(structure, scale=False)


def test_real_perovskites(shared_data: Path) -> None:
    """What is kept of perov_5, whose ions are often displaced or of several anions, is a cubic cell of five atoms."""
    settings = build_config({"structures": {"classes": "ABX3", "cell": "conventional"}}).structures
    whole = import_structures([shared_data / "perov_5.csv.gz"], selection=Selection("given"), workers=1).structures
    few = whole.subset(np.arange(0, len(whole), 100))
    result = select(few, Selection.of(settings))
    assert set(result.reasons()) == {"not cubic", "not of the classes ABX3"}  # ABO2N, and ions off their places
    assert len(result.structures) > 5
    assert (np.diff(result.structures.offsets) == 5).all()
    assert all(is_cubic(*result.structures.arrays(i)) for i in range(len(result.structures)))
