"""Training of the Cond-DFC-VAE: maps to Gaussian codes and back, compared as the UNet sees them (ICSG3D, eqs. 4, 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import DensityConfig, VAEConfig
from voxtal.data.dataset import DensityDataset
from voxtal.errors import UserError
from voxtal.models.build import record, restore
from voxtal.models.unet import UNet
from voxtal.models.vae import VAE, logarithmic, reparameterized
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.structures.conditions import Condition
from voxtal.structures.filters import right_angled
from voxtal.training.checkpoint import load
from voxtal.training.density_data import TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.losses import divergence, perceptual_loss
from voxtal.training.maps_task import MapsTask


def load_unet(path: Path, density: DensityConfig) -> UNet:
    """The trained UNet at ``path``, which has to be of maps like these.

    Raises
    ------
    UserError
        There is none, or it was trained on other maps.
    """
    saved = load(path, "voxtal train unet")
    trained_on = saved["facts"]["density"]
    other = [
        key for key in ("grid", "margin", "geometry", "sigma_angstrom") if trained_on[key] != getattr(density, key)
    ]
    if other:
        key = other[0]
        raise UserError(
            f"{path} was trained on maps with density.{key} = {trained_on[key]}, these have {getattr(density, key)}: "
            "train the UNet on them first, with `voxtal train unet`."
        )
    return restore(saved)  # type: ignore[return-value]


def sizes_of(
    architecture: str, config: VAEConfig, dataset: DensityDataset, rows: np.ndarray, condition: int, folder: Path
) -> dict[str, Any]:
    """What the network of a data set is built for.

    Raises
    ------
    UserError
        Cells that are not right-angled, in which ours draws no ions, or a structure of more than it draws.
    """
    sizes = {"grid": dataset.settings.grid, "width": config.width, "latent": config.latent, "condition": condition}
    if architecture.startswith("paper"):
        return sizes
    counts = dataset.atom_counts(rows)
    if (skewed := int((~right_angled(dataset.cells(rows))).sum())) > 0:
        raise UserError(
            f"{folder}: {skewed} of {len(rows)} cells are not right-angled, and the VAE of this preset draws ions in "
            "right-angled ones. Keep cubic crystals with structures.classes, in conventional cells with "
            'structures.cell = "conventional", or take density.geometry = "orthogonal".'
        )
    if counts.max() > config.ions:
        raise UserError(
            f"{folder}: a structure has {counts.max()} atoms, but train.vae.ions = {config.ions}; raise it to those."
        )
    return sizes | {"ions": config.ions}


class VAETask(MapsTask):
    """The network, what it is told of each structure, and what it is compared by.

    Parameters
    ----------
    condition, vectors
        How a condition is made, and that of each structure of the data set, (n, condition).
    unet
        The perceptual model of eq. 5, which stays as it is; None with ``alpha`` 0.
    """

    network: VAE
    config: VAEConfig

    def __init__(
        self,
        architecture: str,
        sizes: dict[str, Any],
        config: VAEConfig,
        steps: int,
        dataset: DensityDataset,
        training: np.ndarray,
        validation: np.ndarray,
        condition: Condition,
        vectors: np.ndarray,
        unet: UNet | None,
        arithmetic: Arithmetic,
        parallel: DataParallel,
        seed: int,
    ) -> None:
        super().__init__(architecture, sizes, config, steps, dataset, training, validation, arithmetic, parallel, seed)
        self.unet: UNet | None = None
        if unet is not None:
            self.unet = arithmetic.place(unet.eval().requires_grad_(False))  # type: ignore[assignment]
        self.condition = condition
        self.vectors = torch.from_numpy(vectors).to(arithmetic.device)

    def losses_of(self, maps: TurnedMaps, chosen: np.ndarray, share: Share | None) -> dict[str, Tensor]:
        """Maps to validate with are decoded from the means of their codes."""
        device, latent = self.arithmetic.device, self.network.latent
        noise = torch.zeros(len(chosen), latent, device=device) if share is None else share.randn(latent, device=device)
        return self.losses(maps, chosen, noise)

    def losses(self, maps: TurnedMaps, chosen: np.ndarray, noise: Tensor) -> dict[str, Tensor]:
        """Eq. 5 and its terms, not weighted, as means over the maps at ``chosen`` (b,), for ``noise`` (b, latent)."""
        batch = maps.batch(chosen)
        condition = self.vectors[torch.from_numpy(batch.rows).to(noise.device)]
        with self.arithmetic.autocast():
            mean, log_variance = self.network.encode(batch.maps, condition)
        mean, log_variance = mean.float(), log_variance.float()
        codes = reparameterized(mean, log_variance, noise)
        with self.arithmetic.autocast():
            decoded = self.network.decode(codes, condition).float()
            dfc = torch.zeros((), device=noise.device)
            if self.unet is not None:
                dfc = perceptual_loss(self.unet, batch.maps, decoded)
        mse = nn.functional.mse_loss(self._compared(decoded), self._compared(batch.maps))
        kld = divergence(mean, log_variance)
        loss = mse + self.config.beta * kld + self.config.alpha * dfc
        return {"loss": loss, "mse": mse, "kld": kld, "dfc": dfc}

    def _compared(self, maps: Tensor) -> Tensor:
        """Maps as they are compared: as they are (published), or the density's logarithm and coordinates."""
        return maps if self.published else torch.cat([logarithmic(maps[:, :1]), maps[:, 1:]], dim=1)

    def export(self) -> dict[str, Any]:
        facts = {"density": self.training.dataset.settings.model_dump(), "condition": self.condition.facts()}
        return record(self.architecture, self.sizes, self.network, **facts)
