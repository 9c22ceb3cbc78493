"""Training of the UNet: from density maps and coordinates to species and binary maps (ICSG3D, eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxtal.config_icsg3d import UNetConfig
from voxtal.data.dataset import DensityDataset
from voxtal.errors import UserError
from voxtal.models.build import record
from voxtal.models.unet import UNet
from voxtal.parallel.data_parallel import Share
from voxtal.training.density_data import MapBatch, TurnedMaps
from voxtal.training.losses import binary_map_loss, species_loss
from voxtal.training.maps_task import MapsTask

PUBLISHED_NUMBERS = tuple(range(1, 95))
"""The published 95 classes are these and the background."""


def class_weights(counts: np.ndarray) -> np.ndarray:
    """Weights (classes,) of eq. 7's first term from voxel counts (classes,) of the training set, background first.

    Inversely proportional to the count: all voxels over those of the class, as in the published code. Zero for the
    background, and for a class without a voxel, which no voxel of the training set could be weighted with.
    """
    counts = np.asarray(counts, dtype=np.float64)
    weights = np.divide(counts.sum(), counts, out=np.zeros_like(counts), where=counts > 0)
    weights[0] = 0.0
    return weights


def unet_elements(preset: str, counts: np.ndarray, folder: Path) -> list[int]:
    """Atomic numbers of the classes: the published ones, or those that the training set has voxels of.

    Parameters
    ----------
    counts
        (119,) voxels of each atomic number in the training set.

    Raises
    ------
    UserError
        The published network has no class for an element.
    """
    present = 1 + np.flatnonzero(counts[1:])
    if preset != "paper":
        return present.tolist()
    if present[-1] > PUBLISHED_NUMBERS[-1]:
        raise UserError(
            f"{folder} has maps of element {present[-1]}, and the published UNet's 95 classes end with plutonium (94): "
            'leave heavier elements out, or take preset = "laptop", which has a class for each element in the data.'
        )
    return list(PUBLISHED_NUMBERS)


def describe_classes(numbers: Sequence[int], counts: np.ndarray) -> str:
    """How many classes there are, and which weight those get that no voxel of the training set has."""
    without = sum(counts[number] == 0 for number in numbers)
    text = f"{len(numbers) + 1} classes, {counts[1:].sum() / counts.sum():.1%} of voxels in ions"
    return f"{text}; {without} elements have no voxel to train on, and weight 0" if without else text


def sizes_of(preset: str, config: UNetConfig, dataset: DensityDataset, counts: np.ndarray) -> dict[str, Any]:
    """What the UNet of a preset is built for, of voxel ``counts`` (119,) of the training set.

    Raises
    ------
    UserError
        The published network has no class for an element.
    """
    settings = dataset.settings
    sizes = {
        "grid": settings.grid,
        "numbers": unet_elements(preset, counts, dataset.folder),
        "width": config.width,
        "levels": config.levels,
    }
    return sizes if preset == "paper" else sizes | {"margin": settings.margin, "sigma": settings.sigma_angstrom}


class UNetTask(MapsTask):
    """The network, and the weights of eq. 7 that its training structures give."""

    network: UNet

    def __init__(self, *arguments: Any) -> None:
        """With those of :class:`MapsTask`."""
        super().__init__(*arguments)
        device = self.arithmetic.device
        numbers = self.network.numbers.long()
        counts = self.training.dataset.species_counts(self.training.rows)[numbers.cpu().numpy()]
        self.weights = torch.from_numpy(class_weights(counts)).float().to(device)
        self.class_of = torch.zeros(256, dtype=torch.int64, device=device)
        self.class_of[numbers] = torch.arange(len(numbers), device=device)

    def losses_of(self, maps: TurnedMaps, chosen: np.ndarray, share: Share | None) -> dict[str, Tensor]:
        return self.losses(maps.batch(chosen))

    def losses(self, batch: MapBatch) -> dict[str, Tensor]:
        """Both terms of eq. 7, their sum, and the share of a structure's voxels in ions whose element is the likeliest;
        means over the structures of the batch."""
        labelled = batch.species > 0
        truth = self.class_of[batch.species[labelled]]
        with self.arithmetic.autocast():
            features = self.network.trunk(batch.maps)
            logits = self.network.species_logits(features, labelled)
            binary = self.network.binary_logits(features)
        species = species_loss(logits, truth, self.weights, labelled.numel())
        loss = binary_map_loss(binary, labelled)
        right = torch.zeros(labelled.shape, device=labelled.device)
        right[labelled] = (logits.detach()[:, 1:].argmax(dim=1) + 1 == truth).float()
        recall = right.flatten(1).sum(1) / labelled.flatten(1).sum(1).clamp_min(1)
        return {
            "loss": species + loss,
            "species_loss": species,
            "binary_loss": loss,
            "nonzero_recall": recall.mean(),
        }

    def export(self) -> dict[str, Any]:
        density = self.training.dataset.settings.model_dump()
        return record(self.architecture, self.sizes, self.network, density=density)
