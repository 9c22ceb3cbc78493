"""CIF by gemmi: the same crystal as pymatgen reads."""

from __future__ import annotations

import csv
import gzip
import warnings
from io import StringIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from voxtal.structures.cif import block_texts, cell_matrix, parse_cif
from voxtal.structures.rows import BadRowError

P1 = """data_CoHf
_cell_length_a 3.16
_cell_length_b 3.16
_cell_length_c 3.16
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
 Hf Hf1 0 0 0 1
 Co Co1 0.5 0.5 0.5 1
"""


def pymatgen_reads(text: str) -> Structure:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CifParser(StringIO(text)).parse_structures(primitive=False)[0]


@pytest.mark.parametrize("name", ["mp_20_binary_ternary", "mpts_52", "perov_5"])
def test_p1_files_are_read_as_pymatgen_reads_them(shared_data: Path, name: str) -> None:
    """A slip in axes, order or rounding would change every voxel of the real data."""
    with gzip.open(shared_data / f"{name}.csv.gz", "rt") as handle:
        texts = [row["cif"] for row in islice(csv.DictReader(handle), 0, 4000, 100)]
    for text in texts:
        numbers, frac_coords, cell = parse_cif(text)
        theirs = pymatgen_reads(text)
        # CifParser sorts by electronegativity at the end; ours keeps the order of the file.
        order = sorted(range(len(numbers)), key=lambda i: Element.from_Z(int(numbers[i])))
        assert list(theirs.atomic_numbers) == numbers[order].tolist()
        assert np.allclose(theirs.lattice.matrix, cell, atol=1e-10)
        offsets = theirs.frac_coords - frac_coords[order]
        assert np.abs(offsets - np.round(offsets)).max() < 1e-12


def test_order_of_the_file_is_kept() -> None:
    """The published voxels take atoms as listed."""
    assert parse_cif(P1)[0].tolist() == [72, 27]


@pytest.mark.parametrize(
    ("group", "lattice", "species", "sites"),
    [
        ("Fd-3m", Lattice.cubic(6.9), ["Hf", "Co"], [[0, 0, 0], [0.625, 0.625, 0.625]]),
        ("P6_3/mmc", Lattice.hexagonal(2.5, 4.07), ["Co"], [[1 / 3, 2 / 3, 0.25]]),
        ("R-3m", Lattice.hexagonal(4.5, 12.1), ["Bi", "Te"], [[0, 0, 0.4], [0, 0, 0.21]]),
        ("P2_1/c", Lattice.monoclinic(5, 5.2, 5.3, 99), ["Zr", "O"], [[0.28, 0.04, 0.2], [0.07, 0.33, 0.34]]),
        ("P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    ],
)  # fmt: skip
def test_symmetry_is_expanded(group: str, lattice: Lattice, species: list[str], sites: list[list[float]]) -> None:
    """Special positions and centred cells must give each atom once."""
    original = Structure.from_spacegroup(group, lattice, species, sites)
    text = str(CifWriter(original, symprec=0.01))
    numbers, frac_coords, cell = parse_cif(text)
    ours = Structure(Lattice(cell), numbers.tolist(), frac_coords)
    assert ours.composition == original.composition
    assert ours.matches(original, stol=0.01, ltol=0.001, angle_tol=0.01)


def test_space_group_without_operations() -> None:
    """Files that name the space group but list no operations are common."""
    text = P1.replace("loop_", "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_").replace("0.5 0.5 0.5", "0.5 0 0")
    numbers, _, _ = parse_cif(text.replace("3.16", "5.1"))
    assert sorted(numbers.tolist()) == [27] * 4 + [72] * 4


def test_cell_matrix_is_pymatgens() -> None:
    """Cartesian axes must agree with every other format."""
    parameters = (3.1, 4.2, 7.3, 81.0, 99.0, 113.0)
    assert np.allclose(cell_matrix(parameters), Lattice.from_parameters(*parameters).matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("data_CoHf", "", "CIF does not parse"),
        ("0.5 0.5 0.5 1", "0.5 0.5 0.5", "CIF does not parse"),
        ("0.5 0.5 0.5 1", "0.5 0.5 0.5 0.4", "partial occupancy"),
        ("Co Co1", "X X1", "unknown element"),
        ("Co Co1", "D D1", "unknown element"),
        ("Co Co1", "Zz Zz1", "unknown element"),
        ("_cell_length_a 3.16", "", "no cell"),
        ("loop_", "_symmetry_space_group_name_H-M 'Q 17'\nloop_", "symmetry does not parse"),
        (P1[P1.index("loop_") :], "", "no atoms"),
    ],
)
def test_bad_cifs_have_a_reason(old: str, new: str, reason: str) -> None:
    """What is wrong with a file is what the user needs to know."""
    assert old in P1
    with pytest.raises(BadRowError) as caught:
        parse_cif(P1.replace(old, new))
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", ["?", ".", "nan", "abc"])
def test_missing_coordinates_are_not_zero(value: str) -> None:
    """A coordinate that is no number must never become a place."""
    _, frac_coords, _ = parse_cif(P1.replace("0.5 0.5 0.5 1", f"{value} 0.5 0.5 1"))
    assert not np.isfinite(frac_coords).all()


def test_file_of_several_blocks() -> None:
    """Every crystal of a database dump is read, not only the first."""
    assert [name for name, _ in block_texts(P1 + P1.replace("data_CoHf", "data_two"))] == ["CoHf", "two"]
    assert block_texts(P1) == [("", P1)]
