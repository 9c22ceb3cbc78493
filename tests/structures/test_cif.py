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
from hypothesis import assume, given
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter

from voxtal.structures.cif import block_texts, cell_matrix, parse_cif
from voxtal.structures.rows import BadRowError
from voxtal.structures.site_order import ELECTRONEGATIVITIES, SYMBOLS

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


def texts_of(path: Path, step: int) -> list[str]:
    with gzip.open(path, "rt", newline="") as handle:
        return [row["cif"] for row in islice(csv.DictReader(handle), 0, None, step)]


def assert_read_alike(text: str) -> None:
    """The same elements in the same order, on the same places in the same cell."""
    numbers, frac_coords, cell = parse_cif(text)
    theirs = pymatgen_reads(text)
    assert numbers.tolist() == list(theirs.atomic_numbers), text
    offsets = frac_coords - theirs.frac_coords
    assert np.abs(offsets - np.round(offsets)).max() < 1e-9, text
    assert np.abs(theirs.lattice.matrix - cell).max() < 1e-9, text


@pytest.mark.parametrize("name", ["mp_20_binary_ternary", "mpts_52", "perov_5"])
def test_shared_files_are_read_as_pymatgen_reads_them(shared_data: Path, name: str) -> None:
    """A slip in axes, order or rounding would change every voxel of the real data."""
    for text in texts_of(shared_data / f"{name}.csv.gz", 150):
        assert_read_alike(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mp_20_binary_ternary", "mpts_52", "perov_5"])
def test_every_twentieth_shared_row(shared_data: Path, name: str) -> None:
    """Rare elements, odd cells and numbers at the limit of rounding; ``benchmarks/cif_import.py --all`` does all."""
    for text in texts_of(shared_data / f"{name}.csv.gz", 20):
        assert_read_alike(text)


@pytest.mark.slow
def test_real_structures_written_with_their_symmetry(shared_data: Path) -> None:
    """Expansion must list images in the order of the file's operations, special positions once."""
    for text in texts_of(shared_data / "mp_20_binary_ternary.csv.gz", 900):
        symmetric = str(CifWriter(pymatgen_reads(text), symprec=0.01))
        assert_read_alike(symmetric)


def test_sites_are_in_pymatgens_order() -> None:
    """A file lists sites as it likes; two tools that number them differently cannot exchange site properties."""
    rows = P1[P1.index(" Hf Hf1") :].splitlines()
    assert parse_cif(P1.replace("\n".join(rows), "\n".join(rows[::-1])))[0].tolist() == [72, 27]


@pytest.mark.filterwarnings("ignore:No Pauling electronegativity")
def test_electronegativities_are_pymatgens() -> None:
    """The order of sites follows them; a wrong one reorders every crystal with that element."""
    theirs = [Element.from_Z(number).X for number in range(1, len(ELECTRONEGATIVITIES) + 1)]
    assert np.array_equal(theirs, ELECTRONEGATIVITIES, equal_nan=True)
    assert [element.symbol for element in map(Element.from_Z, range(1, 119))] == list(SYMBOLS)


def any_cif(cell: str, rows: list[tuple[str, str]], extra: str = "") -> str:
    """A CIF with the given cell, and rows of type symbol and coordinates."""
    table = "\n".join(f" {symbol} {symbol}{i} {place}" for i, (symbol, place) in enumerate(rows))
    tags = " ".join(f"_atom_site_{name}" for name in ("type_symbol", "label", "fract_x", "fract_y", "fract_z"))
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = [f"_cell_{name} {value}" for name, value in zip(names, cell.split(), strict=True)]
    return "\n".join(["data_any", *lines, extra, "loop_", *tags.split(), table, ""])


THIRDS = ["0", "0.5", "-0.25", "1.125", "0.3333", "0.33330", "0.33329", "0.6666", "0.6667", "0.66673", "0.66674"]
"""Values at which rounding to thirds begins and ends, and some that no rounding must touch."""


@given(
    symbols=st.lists(st.sampled_from(SYMBOLS[:103]), min_size=1, max_size=12),
    places=st.permutations([(x, y) for x in THIRDS for y in THIRDS]),
    cell=st.tuples(*[st.floats(2, 20)] * 3, *[st.floats(75, 105)] * 3),
)
def test_any_p1_file_is_read_as_pymatgen_reads_it(
    symbols: list[str], places: list[tuple[str, str]], cell: tuple[float, ...]
) -> None:
    """Elements without an electronegativity follow no order but the algorithm's; thirds are rounded or not."""
    rows = [(symbol, f"{x} {y} 0.0{i}1") for i, (symbol, (x, y)) in enumerate(zip(symbols, places, strict=False))]
    try:
        pymatgen_reads(text := any_cif(" ".join(map(repr, cell)), rows))
    except ValueError:
        assume(False)  # two atoms on one place, or a label that is not an element's to pymatgen
    assert_read_alike(text)


def test_oxidation_states_order_sites() -> None:
    """Fe3O4 decorated: pymatgen lists Fe2+ before Fe3+, whatever the file does."""
    sites = [[i / 7, 0, 0] for i in range(7)]
    decorated = Structure(Lattice.cubic(12), ["Fe3+", "O2-", "Fe2+", "O2-", "Fe3+", "O2-", "O2-"], sites)
    text = str(CifWriter(decorated))
    assert "_atom_type_oxidation_number" in text
    assert_read_alike(text)
    assert_read_alike(text.replace("_atom_type_oxidation_number", "_atom_type_other"))


@pytest.mark.parametrize("occupancy", ["1", "1.0", "1.000(2)", "?", "0"])
def test_occupancies_that_are_whole(occupancy: str) -> None:
    """A site that is not occupied holds no atom; the others are full."""
    assert_read_alike(P1.replace("0.5 0.5 0.5 1", f"0.5 0.5 0.5 {occupancy}"))


def test_table_without_labels_or_of_one_atom() -> None:
    """Types suffice where labels are left out; one atom may be given without a table."""
    one = P1[: P1.index("loop_")] + "_atom_site_type_symbol 'Hf4+'\n" + "".join(
        f"_atom_site_fract_{axis} 0.25\n" for axis in "xyz"
    )  # fmt: skip
    assert parse_cif(one)[0].tolist() == [72]
    assert parse_cif(one)[1].tolist() == [[0.25] * 3]
    unlabelled = P1.replace(" Hf Hf1", " Hf").replace(" Co Co1", " Co").replace(" _atom_site_label\n", "")
    assert parse_cif(unlabelled)[0].tolist() == [72, 27]


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
    assert_read_alike(text)
    numbers, frac_coords, cell = parse_cif(text)
    ours = Structure(Lattice(cell), numbers.tolist(), frac_coords)
    assert ours.composition == original.composition
    assert ours.matches(original, stol=0.01, ltol=0.001, angle_tol=0.01)


def test_space_group_without_operations() -> None:
    """Files that name the space group but list no operations are common."""
    text = P1.replace("loop_", "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_").replace("0.5 0.5 0.5", "0.5 0 0")
    numbers, _, _ = parse_cif(text.replace("3.16", "5.1"))
    assert numbers.tolist() == [72] * 4 + [27] * 4


@pytest.mark.parametrize(("name", "number"), [("P 1 21/n 1", 14), ("P n n n", 48), ("P b n m", 62)])
def test_setting_follows_the_name(name: str, number: int) -> None:
    """One number stands for several settings; another one than the name's is another crystal."""
    named = f"_symmetry_space_group_name_H-M '{name}'\n_symmetry_Int_Tables_number {number}"
    text = any_cif("5.1 5.2 7.3 90 90 90", [("Zr", "0.28 0.04 0.2"), ("O", "0.07 0.33 0.34")], named)
    numbers, frac_coords, cell = parse_cif(text)
    ours, theirs = Structure(Lattice(cell), numbers.tolist(), frac_coords), pymatgen_reads(text)
    assert ours.species == theirs.species
    for site in ours:
        assert min(site.distance(other) for other in theirs if other.specie == site.specie) < 1e-6


def test_cell_matrix_is_pymatgens() -> None:
    """Cartesian axes must agree with every other format."""
    parameters = (3.1, 4.2, 7.3, 81.0, 99.0, 113.0)
    assert np.allclose(cell_matrix(*parameters), Lattice.from_parameters(*parameters).matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("data_CoHf", "", "CIF does not parse"),
        ("0.5 0.5 0.5 1", "0.5 0.5 0.5", "CIF does not parse"),
        ("0.5 0.5 0.5 1", "0.5 0.5 0.5 0.4", "partial occupancy"),
        ("Co Co1", "X X1", "unknown element"),
        ("Co Co1", "D D1", "unknown element"),
        ("Co Co1", "Zz Zz1", "unknown element"),
        ("Co Co1", "Wat Wat1", "unknown element"),
        ("0.5 0.5 0.5 1", "0.5 0.5 0.5 2", "occupancy above 1"),
        ("_cell_length_a 3.16", "_cell_length_a 3.16\n_cell_length_a 3.17", "CIF does not parse"),
        ("_atom_site_fract_y", "_atom_site_fract_w", "CIF does not parse"),
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
