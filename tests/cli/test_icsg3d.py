"""ICSG3D's part of a run at the command line: from files to cubic perovskites, to maps, to trained networks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from typer.testing import CliRunner, Result

from tests.cli.test_round import SUMMARY_KEYS, candidate_rows, finish, losses, make_run, start_round
from voxtal.cli.main import build_app
from voxtal.config import load_config, write_config
from voxtal.errors import UserError
from voxtal.generation.bases import find_bases
from voxtal.generation.blocks import ATTEMPT
from voxtal.runs import Run, read_json
from voxtal.structures.structure_set import REASON, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.stages import models_of

SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
SMALL = {"width": 4, "steps": 20, "batch_size": 4, "learning_rate": 3e-3}


def voxtal(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(build_app(), [*arguments, "--run", str(root)])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on a table of sixteen perovskites and a Laves phase, structures of round 0 made."""
    pairs = [(a, b) for a in ("Ca", "Sr", "Ba", "La") for b in ("Ti", "Zr", "Nb", "Fe")]
    structures: list[Any] = [
        Structure(Lattice.cubic(3.8 + 0.05 * i), [a, b, "O", "O", "O"], SITES) for i, (a, b) in enumerate(pairs)
    ]
    structures.append(Structure.from_spacegroup("Fd-3m", Lattice.cubic(6.9), ["Hf", "Co"], [[0] * 3, [0.625] * 3]))
    with open(tmp_path / "crystals.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "formation_energy_per_atom"])
        for i, structure in enumerate(structures):
            writer.writerow([f"m-{i}", CifWriter(structure), -0.1 * i])
    tree = {
        "representation": ["density", "sites"],
        "structures": {
            "source": "crystals.csv",
            "labels": "source",
            "classes": ["AB", "ABX3", "Heusler"],
            "cell": "conventional",
            "max_atoms": 40,
        },
        "density": {"grid": 16},
        "train": {"device": "cpu", "precision": "float32", "unet": {**SMALL, "levels": 2}},
    }
    write_config(tmp_path / "voxtal.toml", tree)
    answer = voxtal(tmp_path, "round", "--until", "structures")
    assert answer.exit_code == 0, answer.output
    assert "17 read, 1 dropped: not of the classes AB, ABX3, Heusler, 16 kept" in answer.output
    return tmp_path


def test_from_a_table_to_a_trained_unet(run: Path) -> None:
    """A configuration that names the maps, and three commands without a path."""
    paths = run / "round-000"
    with open(paths / "given.dropped.csv", newline="") as file:
        dropped = list(csv.DictReader(file))
    assert [(row["id"], row["detail"]) for row in dropped] == [("m-16", "AB2")]
    assert "run voxelize --representation density" in str(voxtal(run, "train", "unet").exception)
    answer = voxtal(run, "voxelize")
    assert answer.exit_code == 0, answer.output
    assert (paths / "density" / "index.h5").is_file()
    assert (paths / "voxels" / "index.h5").is_file()
    assert voxtal(run, "voxelize", "--verify").output.count("is as it was published") == 2
    answer = voxtal(run, "train", "unet")
    assert answer.exit_code == 0, answer.output
    assert "of voxels in ions" in answer.output
    lines = [json.loads(line) for line in (paths / "train" / "unet" / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "species_loss", "binary_loss", "nonzero_recall"} <= lines[-1].keys()
    saved = load(paths / "train" / "unet" / "best.pt", "")
    assert saved["architecture"] == "laptop-unet"
    assert set(saved["sizes"]["numbers"]) <= set(StructureSet.read(paths / "structures.h5").numbers.tolist())
    assert "unet is trained already" in voxtal(run, "train", "unet").output


def test_one_of_two_representations(run: Path) -> None:
    """Another than the configuration's, and two into one folder."""
    answer = voxtal(run, "voxelize", "--representation", "density", "-o", str(run / "maps"))
    assert answer.exit_code == 0, answer.output
    assert not (run / "round-000" / "voxels").exists()
    refused = voxtal(run, "voxelize", "-o", str(run / "both"))
    assert "name one of them with --representation" in str(refused.exception)


def test_published_unet_has_its_classes(run: Path) -> None:
    """``preset = "paper"`` trains 95 classes, and says of which it has no voxel."""
    small = ["--set", "preset=paper", "--set", "density.geometry=true"]
    small += [f"--set=train.unet.{key}={value}" for key, value in {**SMALL, "levels": 2, "steps": 2}.items()]
    assert voxtal(run, "voxelize", "--representation", "density", *small).exit_code == 0
    answer = voxtal(run, "train", "unet", *small)
    assert answer.exit_code == 0, answer.output
    assert "95 classes" in answer.output
    assert "have no voxel to train on, and weight 0" in answer.output


def test_attempts_around_a_compound_and_what_is_left_of_them(maps_run: Run) -> None:
    """Each step of table 2 with its count; the round's own candidates are not touched."""
    answer = voxtal(maps_run.root, "generate", "-n", "8", "--around", "m-3", "--variance", "0.1", "--cif")
    assert answer.exit_code == 0, answer.output
    root = maps_run.round(0).candidates.parent / "around-m-3_variance-0.1"
    found = read_json(root / "funnel.json")
    left = [step["n"] for step in found["steps"]]
    valid = int((StructureSet.read(root / "candidates.h5").provenance[REASON] == "").sum())
    assert left[:2] == [8, valid]
    assert left == sorted(left, reverse=True)
    assert "Around m-3, -0.160 eV/atom" in answer.output
    assert "anonymous formula AB" in answer.output
    assert len(list((root / "cif").glob("*.cif"))) == valid
    assert not maps_run.round(0).candidates.exists()


def test_attempts_around_a_file_with_a_packed_model(maps_run: Run, tmp_path: Path) -> None:
    """The file would stay in its primitive cell, or attempts be lost to a training set that is not there."""
    gold = tmp_path / "gold.cif"
    primitive = Structure(Lattice.from_parameters(2.9, 2.9, 2.9, 60, 60, 60), ["Au"], [[0, 0, 0]])
    CifWriter(primitive).write_file(gold)
    answer = voxtal(maps_run.root, "export", "-o", str(tmp_path / "model"))
    assert answer.exit_code == 0, answer.output
    model = Run(tmp_path / "model", load_config(tmp_path / "model" / "voxtal.toml"))
    assert len(find_bases(model, model.round(0), [str(gold)])[0].row.numbers) == 4
    asked = ["generate", "-n", "4", "--variance", "0.1", "-o", str(tmp_path / "attempts"), "--around"]
    answer = voxtal(tmp_path / "model", *asked, str(gold))
    assert answer.exit_code == 0, answer.output
    assert "What is new among them cannot be told" in answer.output
    answer = voxtal(tmp_path / "model", *asked, "m-3")
    assert "structures.h5 is not there to find 'm-3' in; name a file" in str(answer.exception)


def test_attempts_between_two_compounds(maps_run: Run) -> None:
    """-n is the number of steps, so that another number is another line."""
    answer = voxtal(maps_run.root, "generate", "-n", "4", "--between", "m-1", "m-5")
    assert answer.exit_code == 0, answer.output
    root = maps_run.round(0).candidates.parent / "between-m-1-and-m-5_4-steps"
    assert StructureSet.read(root / "candidates.h5").properties[ATTEMPT].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decile", "12"], "--decile 12: deciles are 0"),
        (["--around", "m-3", "--variance", "-0.5"], "--variance -0.5"),
        (["--around", "m-99"], "no structure 'm-99', and there is no file of that name"),
        (["--between", "m-1", "nowhere.cif"], "no structure 'nowhere.cif'"),
        (["--condition", "band_gap=1"], "the VAE's condition is formation_energy"),
        (["--exclude", "Pb"], "--exclude: icsg3d reads elements off the maps"),
        (["--model", "ccdcgan", "--decile", "3"], "--decile belongs to icsg3d"),
        (["--model", "vae"], "'ccdcgan', 'flow', 'analogue' or 'icsg3d'"),
    ],
)
def test_what_cannot_be_generated(options: list[str], message: str, once_maps_run: Run) -> None:
    """Exit code 2 and what to do, before any attempt is made."""
    answer = voxtal(once_maps_run.root, "generate", *options)
    assert isinstance(answer.exception, UserError)
    assert message in str(answer.exception)
    assert not once_maps_run.round(0).candidates.parent.exists() or not list(once_maps_run.root.rglob("block-*.h5"))


def test_a_run_without_a_vae(trained_run: Run) -> None:
    """What to train first."""
    answer = voxtal(trained_run.root, "generate", "--model", "icsg3d")
    assert "make it with `voxtal train vae`" in str(answer.exception)


def test_maps_alone_are_voxelized_for_icsg3d(maps_run: Run) -> None:
    """A round would stop for want of maps, or spend hours on voxels that nothing is trained on."""
    config = maps_run.root / "voxtal.toml"
    assert "representation" not in config.read_text()
    answer = voxtal(maps_run.root, "voxelize")
    assert answer.exit_code == 0, answer.output
    assert not maps_run.round(0).voxels.exists()
    assert "cgcnn is trained already" in voxtal(maps_run.root, "train", "all").output
    status = voxtal(maps_run.root, "status").output
    assert all(f"train {model}" in status for model in ("unet", "vae", "cgcnn"))
    assert "lattice-ae" not in status


@pytest.mark.slow
def test_two_rounds_of_icsg3d(tmp_path: Path, maps_tree: dict[str, Any], golden_cubes: list[Any]) -> None:
    """The loop has to close: relaxed candidates are trained on in the next round, in cells that maps are of."""
    tree = maps_tree | {"structures": maps_tree["structures"] | {"labels": "source", "split": "random"}}
    run = make_run(tmp_path / "loop", tree, golden_cubes)
    entries = [{"structure": s.as_dict(), "formation_energy": -0.02 * i} for i, s in enumerate(golden_cubes)]
    (run.root / "given.json").write_text(json.dumps(entries))
    for index in (0, 1):
        said = finish(start_round(run.root))
        assert f"round {index}, 2/10: voxelize" in said
        assert f"round {index}, 4/10: train vae" in said
        paths = run.round(index)
        summary = read_json(paths.summary)
        assert summary.keys() >= SUMMARY_KEYS
        assert models_of(run, paths) == ["unet", "vae", "cgcnn"]
        assert all(losses(run, model) for model in models_of(run, paths))
        rows = candidate_rows(run, index)
        assert len(rows) == run.config.generate.n == summary["n_attempts"]
        assert sum(row["outcome"] != "invalid" for row in rows) == summary["n_valid"]
        assert all(bool(row["predicted_formation_energy_ev_per_atom"]) == (not row["reason"]) for row in rows)
        assert sum(row["outcome"] == "selected" for row in rows) == summary["n_selected"]
        assert summary["constraint_mae_heldout_ev_per_atom"] > 0
        following = StructureSet.read(run.round(index + 1).structures)
        assert np.diff(following.offsets).max() <= 4
        assert not (paths.root / "voxels").exists()
    assert voxtal(run.root, "report").exit_code == 0
