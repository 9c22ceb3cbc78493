"""``voxtal evaluate``, of a round and of a representation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from voxtal.cli.main import build_app
from voxtal.errors import UserError
from voxtal.runs import Run
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


@pytest.fixture
def attempts(copper_gold: list[Any], structures: Path, tmp_path: Path) -> Path:
    """Eight known ones in a file of their own, as attempts; ``structures`` are the known ones without the last four."""
    pytest.importorskip("smact")
    path = tmp_path / "generated.h5"
    StructureSet.from_structures(copper_gold[-8:], [f"g{i}" for i in range(8)]).write(path)
    StructureSet.read(structures).subset(range(20)).write(structures)
    return path


def test_any_attempts_are_judged_beside_the_baseline(attempts: Path, structures: Path, tmp_path: Path) -> None:
    """One table for ours and the baseline, on the same budget, with figures."""
    out = evaluate("--structures", str(attempts), "--known", str(structures), "--baseline", "substitution", "-o", "j")
    sets = json.loads((tmp_path / "j" / "evaluation.json").read_text())["sets"]
    assert list(sets) == ["generated", "substitution"]
    assert sets["generated"]["attempts"] == sets["substitution"]["attempts"] == 8
    assert sets["generated"]["novel"]["n"] == 4
    assert "4/8 = 50.0% [21.5%, 78.5%]" in out
    names = {path.name for path in (tmp_path / "j").iterdir()}
    assert names >= {"generated.csv", "substitution.csv", "generated-elements.png", "element-densities.png"}


def test_relaxed_attempts_are_put_on_hulls(attempts: Path, structures: Path, tmp_path: Path) -> None:
    """Energies of a sample, the table of systems and the hulls that an attempt redefines."""
    out = evaluate(
        *("--structures", str(attempts), "--known", str(structures), "-o", "judged"),
        *("--relax", "2", "--systems", "Cu-Au", "--set", "relax.calculator=emt", "--set", "relax.workers=1"),
        *("--set", "relax.candidate_max_steps=2", "--set", "relax.label_max_steps=0"),
    )
    written = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    figures = written["sets"]["generated"]
    assert (figures["sampled"]["n"], figures["sampled"]["of"]) == (2, 4)
    assert figures["with_competing_of_labelled"]["share"] == 1.0
    assert figures["complete_hull_of_labelled"]["share"] == 1.0
    assert figures["systems"][0]["n_generated"] == 4
    assert "Systems, generated" in out
    names = ("generated-systems.csv", "generated-hulls.png", "hulls/generated/Au-Cu/hull.json")
    assert all((tmp_path / "judged" / name).is_file() for name in names)
    assert written["models"] == {}
    assert written["published"].keys() & figures.keys() == {
        "valid",
        "distinct_of_valid",
        "mean_abs_delta_ef_ev_per_atom",
        "negative_ef_of_labelled",
    }
    assert re.search(r"valid, of attempts +18% +8/8 = 100.0%", out)


def test_a_rounds_models_and_attempts(trained_run: Run, quiet: Any) -> None:
    """Without naming any file: the round's models, drawn beside another run's, and its attempts."""
    from voxtal.generation.stage import generate

    pytest.importorskip("smact")
    paths = trained_run.round(0)
    generate(trained_run, paths, 6, quiet)
    out = evaluate("--run", str(trained_run.root), "--against", str(trained_run.root))
    assert "Reproduction (95% intervals)" in out
    assert (paths.report / "learning-curves.png").is_file()
    assert (paths.report / "parity.png").is_file()
    out = evaluate("--run", str(trained_run.root), "--baseline", "substitution")
    written = json.loads((paths.root / "evaluate" / "evaluation.json").read_text())
    assert written["models"].keys() < written["published"].keys() | {"reproduction_strict_heldout"}
    sets = written["sets"]
    assert [figures["attempts"] for figures in sets.values()] == [6, 6]
    assert re.search(r"reproduction, strict matcher, trained on +87% ", out)


def test_unreadable_files_are_attempts_too(attempts: Path, structures: Path, tmp_path: Path) -> None:
    """A program that writes half of its CIFs broken must not look as if it had made fewer."""
    folder = tmp_path / "cifs"
    folder.mkdir()
    StructureSet.read(attempts).structure(7).to(str(folder / "good.cif"), fmt="cif")
    (folder / "broken.cif").write_text("data_broken\n_cell_length_a 3\n")
    evaluate("--structures", str(folder), "--known", str(structures), "-o", "judged")
    figures = json.loads((tmp_path / "judged" / "evaluation.json").read_text())["sets"]["cifs"]
    assert (figures["attempts"], figures["valid"]["n"], figures["novel"]["n"]) == (2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--structures", "structures.h5"], "with --known"),
        (["--known", "structures.h5"], "with --structures"),
        (["--known", "structures.h5", "--structures", "missing.h5"], "There is no missing.h5"),
        (["--known", "structures.h5", "--baseline", "substitution"], "needs a number of --attempts"),
        (["--known", "structures.h5", "--structures", "structures.h5", "--attempts", "3"], "belongs to --baseline"),
        (["--known", "structures.h5", "--structures", "structures.h5", "--systems", "Co-Xx"], "no element"),
        (["--roundtrip", "structures.h5", "--relax", "3"], "leave the options"),
        (["--relax", "3"], "with --known"),
        (["--structures", "structures.h5", "--against", "elsewhere"], "--against"),
    ],
)
def test_wrong_options_for_attempts(structures: Path, arguments: list[str], message: str) -> None:
    """Before any work, and never as a traceback."""
    with pytest.raises(UserError, match=message):
        evaluate(*arguments)
