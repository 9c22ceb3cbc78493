"""``voxtal hypothetical`` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from voxtal.cli.hypothetical import hypothetical
from voxtal.errors import UserError
from voxtal.structures.structure_set import StructureSet

app = typer.Typer()
app.command()(hypothetical)


def voxtal_hypothetical(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_writes_a_set_within_the_limits_of_the_run(tmp_path: Path) -> None:
    """The run's configuration decides the sizes, and the table accounts for every prototype tried."""
    (tmp_path / "voxtal.toml").write_text('system = "Co-Hf"\n[structures]\nmax_atoms = 4\n')
    result = voxtal_hypothetical("Co-Hf", "--run", tmp_path, "--set", "structures.max_length_angstrom=6")
    assert result.exit_code == 0, result.output
    structures = StructureSet.read(tmp_path / "hypothetical-Co-Hf.h5")
    assert max(len(structures.arrays(i)[0]) for i in range(len(structures))) == 4
    rows = [line.split()[-1] for line in result.output.splitlines() if line.startswith("  ")]
    tried, *dropped, kept = [int(number) for number in rows[1:]]
    assert tried == sum(dropped) + kept
    assert kept == len(structures)


@pytest.mark.parametrize("arguments", [("Co-Xx",), ("Co", "--set", "structures.max_length_angstrom=0.1")])
def test_wrong_use(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """An unknown element or limits that leave nothing: a message, no file."""
    result = voxtal_hypothetical(*arguments, "-o", tmp_path / "o.h5", "--run", tmp_path)
    assert isinstance(result.exception, UserError)
    assert not (tmp_path / "o.h5").exists()


def test_help_has_an_example() -> None:
    """The help is where people look first."""
    assert "Example: voxtal hypothetical" in voxtal_hypothetical("--help").output
