"""``voxtal import`` as a user meets it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import typer
from click.testing import Result
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from typer.testing import CliRunner

from voxtal.cli.import_structures import import_structures
from voxtal.errors import UserError
from voxtal.structures.structure_set import StructureSet

LAVES = Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.9), ["Hf", "Co"], [[0] * 3, [0.625] * 3])
XENON = Structure(Lattice.cubic(4), ["Xe"], [[0, 0, 0]])

app = typer.Typer()
app.command()(import_structures)


def voxtal_import(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two good rows, of which one is a noble gas, and two bad ones."""
    path = tmp_path / "table.csv"
    rows = [("laves", str(CifWriter(LAVES)), -0.3), ("xe", str(CifWriter(XENON)), 0.0), ("bad", "?", 0.1)]
    with open(path, "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([("material_id", "cif", "heat_all"), *rows, ("nan", str(CifWriter(LAVES)), "nan")])
    return path


def test_import_writes_a_set_and_says_what_was_dropped(table: Path, tmp_path: Path) -> None:
    """Counts add up in the table, and the dropped rows are in a file beside."""
    output = tmp_path / "out.h5"
    result = voxtal_import(table, "-o", output, "--run", tmp_path)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["read", "4"] in lines
    assert ["kept", "2"] in lines
    assert "formation energy not a number" in result.output
    structures = StructureSet.read(output)
    assert structures.ids.tolist() == ["laves", "xe"]
    assert len(structures.arrays(0)[0]) == 6
    with open(tmp_path / "out.dropped.csv", newline="") as handle:
        assert [(row["id"], row["reason"]) for row in csv.DictReader(handle)] == [
            ("bad", "CIF does not parse"),
            ("nan", "formation energy not a number"),
        ]


def test_options_reach_the_selection(table: Path, tmp_path: Path) -> None:
    """Each switch changes what is kept."""
    output = tmp_path / "out.h5"
    kept = {}
    for options in (
        ("--no-primitive",),
        ("--no-primitive", "--no-filter"),
        ("--max-atoms", "5"),
        ("--max-length", "4.5"),
        ("--exclude-noble-gases",),
        ("--set", "structures.max_atoms=5"),
    ):
        result = voxtal_import(table, "-o", output, "--run", tmp_path, *options)
        assert result.exit_code == 0, result.output
        kept[" ".join(options)] = StructureSet.read(output).ids.tolist()
    assert kept == {
        "--no-primitive": ["xe"],
        "--no-primitive --no-filter": ["laves", "xe"],
        "--max-atoms 5": ["xe"],
        "--max-length 4.5": ["xe"],
        "--exclude-noble-gases": ["laves"],
        "--set structures.max_atoms=5": ["xe"],
    }


def test_nothing_kept_is_an_error_and_writes_no_set(table: Path, tmp_path: Path) -> None:
    """An empty set would make the next stage fail with a riddle."""
    result = voxtal_import(
        table, "-o", tmp_path / "o.h5", "--run", tmp_path, "--set", "structures.max_length_angstrom=1"
    )
    assert isinstance(result.exception, UserError)
    assert "o.dropped.csv" in str(result.exception)
    assert not (tmp_path / "o.h5").exists()
    assert (tmp_path / "o.dropped.csv").exists()


def test_wrong_path_is_a_user_error(tmp_path: Path) -> None:
    """Exit code 2 and a name, not a traceback."""
    result = voxtal_import(tmp_path / "missing.csv", "--run", tmp_path)
    assert isinstance(result.exception, UserError)
    assert "missing.csv" in str(result.exception)


def test_help_has_an_example() -> None:
    """The help is where people look first."""
    assert "Example: voxtal import" in voxtal_import("--help").output
