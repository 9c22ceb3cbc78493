"""ICSG3D's networks on real ranks: the losses of one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.test_training_ranks import TORCHRUN, assert_same_losses, command, finish, losses, start
from voxtal.config import build_config, write_config
from voxtal.data.voxelize import voxelize
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.runs import Run
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.stages import DENSITY_MODELS

STEPS = {"laptop": 12, "paper": 4}
"""Later, Adam divides the published networks' rounding errors by themselves."""


def run_with_maps(root: Path, preset: str, structures: list[Any]) -> Path:
    """A run directory with density maps of ``structures``, and nothing trained."""
    small = {"width": 4, "steps": STEPS[preset], "batch_size": 6}
    tree = {
        "preset": preset,
        "seed": 3,
        "density": {"grid": 16},
        "train": {
            "device": "cpu",
            "precision": "float32",
            "unet": {**small, "levels": 2},
            "vae": {**small, "latent": 16},
        },
    }
    root.mkdir(parents=True, exist_ok=True)
    write_config(root / "voxtal.toml", tree)
    paths, config = Run(root, build_config(tree)).round(0), build_config(tree)
    energies = [0.01 * i for i in range(len(structures))]
    StructureSet.from_structures(
        structures, [f"s{i}" for i in range(len(structures))], properties={FORMATION_ENERGY: energies}
    ).write(paths.structures)
    voxelize(paths.structures, paths.density, config.density, SerialCommunicator())
    return root


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["laptop", "paper"])
def test_losses_are_those_of_one_process(golden_cubes: list[Any], tmp_path: Path, preset: str) -> None:
    """More ranks would train another model: batch norm of a share, turns drawn per rank, a recall of another mean."""
    roots = {}
    for ranks in (1, 2):
        roots[ranks] = run_with_maps(tmp_path / f"{ranks}", preset, golden_cubes)
        program = [sys.executable, str(Path(__file__).with_name("train_all.py")), str(roots[ranks]), *DENSITY_MODELS]
        code, out = finish(start(program if ranks == 1 else command(TORCHRUN, ranks, program)), 300)
        assert code == 0, out
    for model in DENSITY_MODELS:
        alone = losses(roots[1], model)
        assert len(alone) == STEPS[preset]
        assert_same_losses(alone, losses(roots[2], model))
