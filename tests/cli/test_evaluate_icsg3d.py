"""``voxtal evaluate --model icsg3d``: tables, file and figures of a round, and what it says of a wrong one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from voxtal.cli.common import run_command
from voxtal.cli.evaluate_icsg3d import beside_paper
from voxtal.cli.main import build_app
from voxtal.generation.blocks import PREDICTED
from voxtal.structures.structure_set import REASON, StructureSet

PICTURES = {
    "codes.png",
    "tsne.png",
    "reconstructions-density.png",
    "reconstructions-species.png",
    "interpolations-density.png",
    "interpolations-species.png",
    "errors.png",
    "parity.png",
    "formula-types.png",
}


def evaluate(*arguments: str) -> tuple[str, str]:
    """Output, and the error's text."""
    answer = CliRunner().invoke(build_app(), ["evaluate", *arguments])
    return answer.output, str(answer.exception or "")


@pytest.fixture(scope="module")
def run(icsg3d_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, with three attempts, one of them not valid."""
    root = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(icsg3d_run, root)
    structures = [Structure(Lattice.cubic(4 + i), ["Sr", "Ti"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for i in range(3)]
    attempts = StructureSet.from_structures(
        structures, list("abc"), {PREDICTED: [-1.0, 1.0, np.nan]}, {REASON: ["", "", "no regions"]}
    )
    (root / "round-000" / "generate").mkdir()
    attempts.write(root / "round-000" / "generate" / "candidates.h5")
    return root


def test_a_round(run: Path) -> None:
    """Everything that the paper shows, printed beside its figures, in a file and as pictures."""
    output, error = evaluate("--model", "icsg3d", "--run", str(run))
    assert error == ""
    for title in ("Species maps", "Maps to crystals", "Codes", "Properties by CGCNN", "Attempts", "Beside the paper"):
        assert title in output
    assert "|dN_sites|" in output
    assert "0.198" in output
    folder = run / "round-000" / "evaluate" / "icsg3d"
    found = json.loads((folder / "evaluation.json").read_text())
    assert found["published"]["figures"]["emd_angstrom"] == 0.09
    assert found["attempts"]["valid_voxtal"]["n"] == 2
    assert found["attempts"]["negative_ef_of_valid"]["share"] == 0.5
    assert {path.name for path in folder.glob("*.png")} == PICTURES
    for name in PICTURES:
        assert imread(folder / name).std() > 0.01, name
    assert (folder / "structures.csv").is_file()
    assert len((folder / "attempts.csv").read_text().splitlines()) == 4
    keys = [key for key, *_ in beside_paper(found["maps"], found["attempts"])]
    assert keys == [key for key in found["published"]["figures"] if not key.startswith("code_")]


def test_attempts_of_a_name(run: Path, tmp_path: Path) -> None:
    """Attempts around a base compound lie in a folder of their own, and must not be written over the random ones."""
    root = tmp_path / "run"
    shutil.copytree(run, root, ignore=shutil.ignore_patterns("unet", "vae", "evaluate"))
    given = root / "round-000" / "generate"
    (given / "around").mkdir()
    shutil.copy(given / "candidates.h5", given / "around" / "candidates.h5")
    output, error = evaluate("--model", "icsg3d", "--run", str(root), "--name", "around")
    assert error == ""
    assert "There is no unet in" in output
    assert [path.name for path in (root / "round-000" / "evaluate").iterdir()] == ["icsg3d-around"]
    assert "There are no attempts at" in evaluate("--model", "icsg3d", "--run", str(root), "--name", "nearby")[1]


def test_wrong_use(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence that says what to do and exit code 2, never a traceback."""
    assert "leave the options" in evaluate("--model", "icsg3d", "--run", str(run), "--relax", "3")[1]
    assert "--name belongs to" in evaluate("--run", str(run), "--name", "around")[1]
    empty = tmp_path / "run"
    shutil.copytree(run, empty, ignore=shutil.ignore_patterns("train", "evaluate"))

    def command() -> None:
        build_app()(["evaluate", "--model", "icsg3d", "--run", str(empty)], standalone_mode=False)

    assert run_command(command) == 2
    assert "nothing of ICSG3D that is trained to its end: run `voxtal train unet`" in capsys.readouterr().err
