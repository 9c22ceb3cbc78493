"""How well ICSG3D's networks know their data: what VAE and UNet give back of structures, and errors of the CGCNNs."""

from __future__ import annotations

from typing import Any

import numpy as np

from voxtal.data.dataset import DensityDataset
from voxtal.generation.icsg3d_stage import open_maps_models, open_property_networks
from voxtal.generation.properties import predict_properties
from voxtal.runs import RoundPaths, Run
from voxtal.screening.comparison import Progress
from voxtal.screening.metrics import parity, reproduction, spaced
from voxtal.structures.splits import HELDOUT, TRAIN, in_split
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.objectives import labels, properties_of

_BLOCK = 16


def evaluate_maps_models(run: Run, paths: RoundPaths, progress: Progress) -> dict[str, Any]:
    """Reproduction ratio and the CGCNNs' errors on training and held-out structures.

    A structure is reproduced where the mean of its code, decoded by VAE and UNet, is the same crystal. ``constraint``
    and ``other_constraints`` are the CGCNNs of the formation energy and of the other properties that the round needs.
    """
    models, structures = open_maps_models(run, paths), StructureSet.read(paths.structures)
    dataset = DensityDataset(paths.density, run.config.density)
    columns = {name: labels(structures, name, paths.structures) for name in models.condition.properties}
    told = np.isfinite(np.stack(list(columns.values()))).all(axis=0)
    out: dict[str, Any] = {"reproduction": {}, "other_constraints": {}}
    for name in (TRAIN, HELDOUT):
        sample = spaced(np.flatnonzero(in_split(structures, dataset.rows, name) & told[dataset.rows]))
        decoded: list[Any | None] = []
        with progress(f"decode {name}", len(sample)) as advance:
            for first in range(0, len(sample), _BLOCK):
                block = sample[first : first + _BLOCK]
                conditions = models.condition.encode({n: c[dataset.rows[block]] for n, c in columns.items()})
                codes = models.encode(dataset.crystals(block), conditions)
                decoded += [d.structure() for d in models.decode(codes, conditions)]
                advance(len(block), "")
        originals = [structures.structure(int(dataset.rows[i])) for i in sample]
        out["reproduction"][name] = reproduction(originals, decoded)
    networks = open_property_networks(run, paths, models.device)
    needed = {name: networks[name] for name in properties_of(run.config.generator)}
    every = np.arange(len(structures))
    splits = {name: np.flatnonzero(in_split(structures, every, name)) for name in (TRAIN, HELDOUT)}
    for name, values in predict_properties(structures, needed, models.device).items():
        judged = parity(labels(structures, name, paths.structures), values, structures.ids, splits)
        if name == FORMATION_ENERGY:
            out["constraint"] = judged
        else:
            out["other_constraints"][name] = judged
    return out
