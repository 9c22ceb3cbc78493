"""``separated`` sites autoencoders: one for each element, started from the one of all elements (CCDCGAN, Fig. 2 C)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from voxtal.data.dataset import VoxelDataset
from voxtal.runs import RoundPaths, Run
from voxtal.structures.splits import training_rows
from voxtal.structures.structure_set import StructureSet

COMBINED = "sites-ae"
"""Model that they are started from, and that elements without one of their own share."""
SEPARATED = "sites-ae-separated"
"""All of them, for ``voxtal train``."""
NOT_SEPARATED = (
    "train.separated_steps is 0: there is one sites autoencoder, for all elements. Set the steps that an element's own "
    "is to be trained for."
)


def own_model(number: int) -> str:
    """Name of an element's own sites autoencoder among the models: ``sites-ae-Co``."""
    return f"{COMBINED}-{chemical_symbols[number]}"


def own_element(model: str) -> int | None:
    """Atomic number of the element whose own sites autoencoder has this name; None where it is another model."""
    prefix, _, symbol = model.rpartition("-")
    return atomic_numbers.get(symbol) or None if prefix == COMBINED else None


def own_elements(run: Run, paths: RoundPaths) -> tuple[int, ...]:
    """Atomic numbers, rising, of the elements that get one: where ``separated`` is asked for, all that can be trained.

    UserError where there are no voxels yet.
    """
    if not run.config.train.separated_steps:
        return ()
    dataset = VoxelDataset(paths.voxels, run.config.voxels)
    return tuple(np.unique(dataset.image_numbers[images_to_train_on(paths, dataset)]).tolist())


def by_network(numbers: np.ndarray, own: Collection[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Places of the images of each element that is in ``own``, and under 0 those of all others; none that are empty."""
    keys = np.where(np.isin(numbers, list(own)), numbers, 0)
    for key in np.unique(keys).tolist():
        yield key, np.flatnonzero(keys == key)


def images_to_train_on(paths: RoundPaths, dataset: VoxelDataset) -> np.ndarray:
    """(n_images,) which sites images are of structures that may be trained on."""
    return training_rows(StructureSet.read(paths.structures), dataset.rows)[dataset.image_structure]
