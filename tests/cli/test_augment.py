from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from voxtal.cli.augment import augment
from voxtal.cli.common import run_command
from voxtal.errors import EXIT_DONE, EXIT_USAGE
from voxtal.structures.structure_set import FORMATION_ENERGY, METHOD, StructureSet


def call(*arguments: object) -> int:
    app = typer.Typer()
    app.command()(augment)
    command = typer.main.get_command(app)
    return run_command(lambda: command.main([str(a) for a in arguments], standalone_mode=False))


def a_set(path: Path, structures: list[Any], ids: list[str], energy: float, method: str = "emt-x") -> Path:
    columns: dict[str, Any] = {
        "properties": {FORMATION_ENERGY: [energy] * len(ids)},
        "provenance": {METHOD: [method] * len(ids)},
    }
    StructureSet.from_structures(structures, ids, **columns).write(path)
    return path


def test_a_folder_of_relaxed_structures_goes_into_a_training_set(tmp_path, copper_gold, capsys, monkeypatch):
    """What `voxtal relax -o FOLDER/` writes could not be trained on without a run."""
    monkeypatch.chdir(tmp_path)
    into = a_set(tmp_path / "structures.h5", copper_gold[:3], ["a", "b", "c"], 0.1)
    a_set(tmp_path / "relaxed" / "relaxed.h5", copper_gold[2:6], ["d", "e", "f", "g"], 0.2)
    assert call("relaxed", "--into", into) == EXIT_DONE
    assert StructureSet.read(Path("augmented.h5")).ids.tolist() == ["a", "b", "c", "e", "f", "g"]
    printed = capsys.readouterr().out
    assert "left out, structure already there           1" in printed
    assert "augmented.h5: 6 structures" in printed
    assert call("relaxed", "--into", into, "-o", "low.h5", "--max-formation-energy", 0.15) == EXIT_DONE
    assert len(StructureSet.read(Path("low.h5"))) == len(StructureSet.read(into)) == 3


def test_wrong_input_is_told(tmp_path, copper_gold, capsys):
    """A wrong path or another calculator's labels would end in a traceback or in a wrong training set."""
    into = a_set(tmp_path / "structures.h5", copper_gold[:3], ["a", "b", "c"], 0.1)
    other = a_set(tmp_path / "other.h5", copper_gold[3:4], ["d"], 0.1, "chgnet-y")
    output = tmp_path / "out.h5"
    assert call(other, "--into", into, "-o", output) == EXIT_USAGE
    assert "by emt-x, those to add by chgnet-y" in capsys.readouterr().err
    assert call(tmp_path, "--into", into, "-o", output) == EXIT_USAGE
    assert "No structure set at" in capsys.readouterr().err
    assert not output.exists()
