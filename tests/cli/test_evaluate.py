"""``voxtal evaluate``, of a round and of a representation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from voxtal.cli.main import build_app
from voxtal.errors import UserError
from voxtal.structures.structure_set import StructureSet

CONTRACT = {
    "reproduction_ratio_strict",
    "reproduction_ratio_cdvae",
    "site_rms_angstrom",
    "cell_relative_error",
    "n",
    "failures",
}


@pytest.fixture
def structures(copper_gold: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "structures.h5"
    StructureSet.from_structures(copper_gold, [f"s{i}" for i in range(len(copper_gold))]).write(path)
    return path


def evaluate(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), ["evaluate", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.parametrize("representation", ["sites", "density"])
def test_figures_are_printed_and_written(structures: Path, tmp_path: Path, representation: str) -> None:
    """The contract that other tools read."""
    target = tmp_path / "figures.json"
    out = evaluate("--roundtrip", str(structures), "--representation", representation, "--json", str(target))
    figures = json.loads(target.read_text())
    assert set(figures) >= CONTRACT
    assert figures["n"] == 24
    assert figures["n_strict"] + sum(figures["failures"].values()) == 24
    assert figures["representation"] == representation
    assert ("placement" if representation == "sites" else "geometry") in figures["settings"]
    assert "reproduced, strict matcher" in out
    assert f"{figures['n_strict']} ({figures['n_strict'] / 24:.2%})" in out


def test_failures_are_listed(structures: Path) -> None:
    """What to look at when a structure does not come back."""
    broken = StructureSet.read(structures)
    broken.frac_coords[broken.offsets[3]] = np.nan
    broken.write(structures)
    out = evaluate("--roundtrip", str(structures))
    assert "not encoded: not finite  1  s3" in out
    assert "23 (95.83%)" in out


def test_settings_come_from_the_run_and_set(structures: Path, tmp_path: Path) -> None:
    """The figures must be those of the voxels that the run trains on."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "voxtal.toml").write_text("[voxels]\nsites_grid = 40\n")
    target = tmp_path / "figures.json"
    more = ("--set", "voxels.placement=paper", "--json", str(target))
    evaluate("--roundtrip", str(structures), "--run", str(run), *more)
    settings = json.loads(target.read_text())["settings"]
    assert (settings["sites_grid"], settings["placement"]) == (40, "paper")
    evaluate("--roundtrip", str(structures), "--set", "preset=paper", "--json", str(target))
    assert json.loads(target.read_text())["settings"]["sites_grid"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--roundtrip", "missing.h5"], "No structure set at missing.h5"),
        (["--roundtrip", "some.cif"], "voxtal import some.cif -o structures.h5"),
        (["--roundtrip", "."], "is no structure set"),
        (["--roundtrip", "structures.h5", "--run", "elsewhere"], "No configuration at elsewhere"),
        (["--roundtrip", "structures.h5", "--set", "voxels.gird=3"], "unknown key"),
        (["--roundtrip", "structures.h5", "--json", "."], "is a folder"),
        (["--json", "figures.json"], "belong to --roundtrip"),
    ],
)
def test_wrong_use_says_what_to_do(structures: Path, arguments: list[str], message: str) -> None:
    """Before any work, and never as a traceback."""
    with pytest.raises(UserError, match=message):
        evaluate(*arguments)
