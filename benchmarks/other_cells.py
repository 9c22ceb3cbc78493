"""What autoencoders of atoms and cells gain by being shown other cells of the same crystals.

    python benchmarks/other_cells.py RUN --steps 4000

RUN has voxels (`voxelize`) and the preset `laptop`. Networks are trained on the training split, with and without;
errors are those of the held-out structures, in the cell that voxtal places them in and in other ones: the largest shift
of an atom, the largest error of a cell's entries. Half and 98% of the images have less.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxtal.cli.common import open_run, print_table
from voxtal.data.dataset import VoxelDataset
from voxtal.models.atoms import in_order
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.structures.splits import HELDOUT, in_split, training_rows
from voxtal.structures.structure_set import StructureSet
from voxtal.training.autoencoder_data import OTHER_CELLS, data_of
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.device import Arithmetic, one_thread
from voxtal.training.other_cells import atoms_in_other_cells, other_cells


def shown(data: Any, rows: np.ndarray, part: float) -> Any:
    """What a network sees of ``rows``, that part of them in other cells."""
    share = Share(0, len(rows), len(rows), 1.0)
    torch.manual_seed(1)
    if not hasattr(data, "positions"):
        return other_cells(data.cells[rows], part, share)
    positions = atoms_in_other_cells(data.positions[rows], data.counts[rows], data.cells[rows], part, share)
    return in_order(positions, data.counts[rows])


@torch.no_grad()
def errors(network: Any, data: Any, rows: np.ndarray, part: float) -> np.ndarray:
    images = shown(data, rows, part)
    if hasattr(data, "positions"):
        return np.asarray(network.moved(images, data.counts[rows], data.numbers[rows]).cpu())
    return np.asarray((network.decode(network.encode(images)) - images).abs().amax((1, 2)).cpu())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=4000)
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    paths, config = run.latest_round(), run.config
    dataset, structures = VoxelDataset(paths.voxels, config.voxels), StructureSet.read(paths.structures)
    arithmetic = Arithmetic.of(config.train, 0)
    trained_on = training_rows(structures, dataset.rows)
    heldout = in_split(structures, dataset.rows, HELDOUT)
    most = config.structures.max_atoms
    kinds = {
        "cells": ("atoms-lattice-ae", config.train.lattice_ae, {}, np.arange(dataset.n_structures)),
        "sites": ("atoms-sites-ae", config.train.sites_ae, {"atoms": most}, dataset.image_structure),
    }
    table = []
    for name, (architecture, size, sizes, owner) in kinds.items():
        data: Any = data_of(architecture, dataset, most, arithmetic)
        tested = np.flatnonzero(heldout[owner])
        for part in (0.0, OTHER_CELLS):
            task = AutoencoderTask(
                architecture,
                {"width": size.width, "latent": size.latent, **sizes},
                size,
                arguments.steps,
                replace(data, other_cells=part),
                np.flatnonzero(trained_on[owner]),
                arithmetic,
                DataParallel(),
                config.seed,
            )
            with one_thread():
                for step in range(arguments.steps):
                    task.step(step, np.random.default_rng([config.seed, step]))
            network = task.network.eval()
            own, other = (
                np.quantile(errors(network, data, tested, asked), [0.5, 0.98], method="higher") for asked in (0.0, 1.0)
            )
            told = [f"{half:.3f}; {most_of:.2f}" for half, most_of in (own, other)]
            table.append((name, f"{part:.0%}", *told, str(len(tested))))
            print(*table[-1], flush=True)
    print_table("Other cells", ("network of", "in other cells", "own cell, A", "other cells, A", "images"), table)


if __name__ == "__main__":
    main()
