"""The task that trains an autoencoder, by its architecture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from voxtal.config import AutoencoderConfig
from voxtal.data.batches import padded
from voxtal.data.dataset import VoxelDataset
from voxtal.parallel.data_parallel import DataParallel
from voxtal.training.atoms_task import AtomsTask, CellTask
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.device import Arithmetic
from voxtal.training.trainer import Task


def autoencoder_task(
    architecture: str,
    sizes: dict[str, int],
    config: AutoencoderConfig,
    steps: int,
    dataset: VoxelDataset,
    rows: np.ndarray,
    arithmetic: Arithmetic,
    parallel: DataParallel,
    seed: int,
    start: Mapping[str, Tensor] | None = None,
) -> Task:
    """Of the images (sites) or structures (lattice) at ``rows``, from the weights ``start`` if there are any."""
    common = (sizes, config, steps, rows, arithmetic, parallel, seed, start)
    if architecture == "atoms-lattice-ae":
        return CellTask(dataset.cells(np.arange(dataset.n_structures)), *common)
    if architecture == "atoms-sites-ae":
        batch = dataset.atoms(np.arange(dataset.n_images))
        positions, counts = padded(batch, sizes["atoms"], dataset.settings.box_angstrom)
        return AtomsTask(positions, counts, dataset.image_numbers, *common)
    read = dataset.sites_sparse if architecture.endswith("sites-ae") else dataset.lattice_sparse
    return AutoencoderTask(architecture, sizes, config, steps, read, rows, arithmetic, parallel, seed, start)
