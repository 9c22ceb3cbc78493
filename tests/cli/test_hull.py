from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from pymatgen.core import Lattice, Structure

from voxtal.calculators.base import RelaxSettings
from voxtal.cli.common import run_command
from voxtal.cli.hull import hull
from voxtal.errors import EXIT_DONE, EXIT_USAGE
from voxtal.structures.structure_set import StructureSet
from voxtal.workflows.relaxation import relax_set

FCC = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
CONFIG = 'system = "Cu-Au"\n[relax]\ncalculator = "emt"\n'


def call(*arguments: object) -> int:
    app = typer.Typer()
    app.command()(hull)
    command = typer.main.get_command(app)
    return run_command(lambda: command.main([str(a) for a in arguments], standalone_mode=False))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one known phase in round 0 and a better one, a candidate, in round 1."""
    (tmp_path / "voxtal.toml").write_text(CONFIG)
    b2 = Structure(Lattice.cubic(3.1), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    l12 = Structure(Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], FCC)
    settings = RelaxSettings(60, 0.02)
    for n, (id, structure, purpose) in enumerate([("b2", b2, "training"), ("l12", l12, "candidate")]):
        given = StructureSet.from_structures([structure], [id])
        given.write(tmp_path / f"round-{n:03d}" / "structures.h5")
        relax_set(given, "emt", settings, tmp_path / "ledger.sqlite", purpose, round=n, workers=1)
    return tmp_path


def test_the_hull_of_a_run_is_written_drawn_and_told(run, capsys):
    """The newest round's hull would miss labels, or its files would not be where the report looks."""
    assert call("--run", run) == EXIT_DONE
    folder = run / "round-001" / "hull"
    built = json.loads((folder / "hull.json").read_text())
    assert built["elements"] == ["Au", "Cu"]
    assert len(built["hull"]) == 3
    assert "l12" in built["hull"]
    assert (folder / "hull.png").stat().st_size > 10_000
    assert (folder / "hull.svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "Stable phases of Au-Cu" in printed
    assert "Cu3Au" in printed


def test_an_earlier_round_knows_nothing_of_later_ones(run):
    """The hull before augmentation would hold what augmentation found."""
    assert call("--run", run, "--round", 0) == EXIT_DONE
    built = json.loads((run / "round-000" / "hull" / "hull.json").read_text())
    assert "l12" not in {row["id"] for row in built["entries"]}


def test_a_run_without_labels_says_what_to_do(run, tmp_path, capsys):
    """A hull too early, or with another calculator's labels, would be empty or a traceback."""
    assert call("--run", run, "--set", "relax.calculator=chgnet") == EXIT_USAGE
    assert "it holds labels of emt-" in capsys.readouterr().err
    assert call("--run", run, "--set", "system=Cu-Ag") == EXIT_USAGE
    assert "no reference energy of Ag" in capsys.readouterr().err
    (run / "ledger.sqlite").unlink()
    assert call("--run", run) == EXIT_USAGE
    assert "voxtal relax" in capsys.readouterr().err
    assert not (run / "ledger.sqlite").exists()
