"""ICSG3D's part of a run at the command line: from files to cubic perovskites, to maps, to trained networks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter
from typer.testing import CliRunner, Result

from voxtal.cli.main import build_app
from voxtal.config import write_config
from voxtal.structures.structure_set import StructureSet
from voxtal.training.checkpoint import load

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
