"""``voxtal export``: a trained round without its data, as small a run directory as can be generated from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtal.config import CONFIG_NAME, ICSG3D, Config, VoxelsConfig, write_config
from voxtal.data.graphs import GraphSet
from voxtal.errors import UserError
from voxtal.generation.analogue import AnalogueGenerator
from voxtal.generation.icsg3d_stage import networks_of
from voxtal.generation.stage import made_by
from voxtal.runs import RoundPaths, Run
from voxtal.structures.prototypes import prototype_compounds
from voxtal.training.analogue_data import Arrangements
from voxtal.training.checkpoint import load, save

HALF_ERROR = 1e-3
"""Largest relative error of a matrix in half precision; one with a larger error, or out of range, stays as it is."""


def pack(run: Run, paths: RoundPaths, folder: Path, half: bool = True, prototypes: bool = False) -> int:
    """Write what ``voxtal generate`` reads of a round to ``folder``; returns its size in bytes.

    The folder is a run directory whose round 0 makes the attempts of the round that was packed: networks, and how codes
    lie in a crystal graph (ICSG3D has none). It holds no paths of this machine, and no structures but those
    that the analogue generator exchanges elements of.

    Parameters
    ----------
    folder
        Not there yet. It appears when it is whole.
    half
        Weights that are matrices are rounded to half precision, which changes attempts a little.
    prototypes
        The analogue generator exchanges elements of AFLOW's prototypes instead, which may be given to anybody.

    Raises
    ------
    UserError
        There is something at ``folder``, or a model has not been trained.
    """
    if folder.exists():
        raise UserError(f"There is something at {folder} already; delete it, or name another folder.")
    of_maps = run.config.generate.generator == ICSG3D
    models = networks_of(run, paths) if of_maps else made_by(run, paths)["models"]
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a call that was killed
    packed = Run(partial, run.config).round(0)
    for name in models:
        saved = load(paths.train(name) / "best.pt", f"voxtal train {name}")
        if prototypes and name == AnalogueGenerator.model:
            saved["facts"] = _facts_of_prototypes(saved, run.config.voxels)
        save(packed.train(name) / "best.pt", _halved(saved) if half else saved)
    if not of_maps:
        GraphSet.read(paths.graphs, stop=0).write(packed.graphs)
    write_config(partial / CONFIG_NAME, _settings(run.config, paths.index))
    size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    partial.rename(folder)
    return size


def _settings(config: Config, index: int) -> dict[str, Any]:
    """What attempts depend on, whatever later presets say; a round's seed is the configuration's and its number."""
    tree = config.model_dump(include={"preset", "system", "voxels", "train", "generate"})
    del tree["train"]["device"]
    if config.generate.generator == ICSG3D:  # a file that is named to generate around is put in this cell
        tree["structures"] = {"cell": config.structures.cell}
    return {"seed": config.seed + index, **tree}


def _facts_of_prototypes(saved: dict[str, Any], voxels: VoxelsConfig) -> dict[str, Any]:
    """What the record of an analogue generator says of known crystals, for AFLOW's prototypes: no property is known."""
    structures, properties = prototype_compounds(), saved["facts"]["properties"]
    most = [np.bincount(structures.arrays(row)[0]).max() for row in range(len(structures))]
    unknown = dict.fromkeys(properties, np.full(len(structures), np.nan))
    known = Arrangements.of(structures, np.array(most) <= saved["sizes"]["atoms"], voxels, unknown)
    return {"properties": properties, **known.facts()}


def _halved(saved: dict[str, Any]) -> dict[str, Any]:
    """A model's record with its matrices in half precision; loading them makes them what the network computes in."""
    return {**saved, "weights": {name: _half(value) for name, value in saved["weights"].items()}}


def _half(value: torch.Tensor) -> torch.Tensor:
    """Vectors are few, and hold what must be exact: scales, means and biases."""
    if value.dim() < 2 or value.dtype != torch.float32:
        return value
    rounded = value.half()
    error = (rounded.float() - value).norm() / value.norm().clamp_min(1e-30)
    return rounded if error <= HALF_ERROR else value  # NaN, where it is out of range, is not either
