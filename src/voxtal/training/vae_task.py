"""Training of the Cond-DFC-VAE: maps to Gaussian codes and back, compared as the UNet sees them (ICSG3D, eqs. 4, 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voxtal.config import DensityConfig, VAEConfig
from voxtal.data.dataset import DensityDataset
from voxtal.errors import UserError
from voxtal.models.build import build, record, restore
from voxtal.models.unet import UNet
from voxtal.models.vae import VAE, logarithmic, reparameterized
from voxtal.parallel.data_parallel import DataParallel
from voxtal.structures.conditions import Condition
from voxtal.training.checkpoint import load
from voxtal.training.density_data import TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.losses import divergence, perceptual_loss
from voxtal.training.trainer import batch_rows, cosine_rate, descend

_RIGHT_ANGLE = 1e-3
"""Cosine up to which an angle is a right one."""
VALIDATED = 128
"""Structures of the validation split that the weights to keep are chosen by, at most."""


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
    cells, counts = dataset.cells(rows), dataset.atom_counts(rows)
    edges = np.linalg.norm(cells, axis=2)
    cosines = np.einsum("nij,nkj->nik", cells, cells) / edges[:, :, None] / edges[:, None, :] - np.eye(3)
    if (skewed := (np.abs(cosines).max(axis=(1, 2)) > _RIGHT_ANGLE).sum()) > 0:
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


class VAETask:
    """The structures ``training`` (rows of a data set of density maps) and their turns; ``validation`` ones choose the
    weights that are kept, the last ones where there are none.

    Parameters
    ----------
    condition, vectors
        How a condition is made, and that of each structure of the data set, (n, condition).
    unet
        The perceptual model of eq. 5, which stays as it is; None with ``alpha`` 0.
    """

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
        self.architecture, self.sizes = architecture, sizes
        self.published = architecture.startswith("paper")
        torch.manual_seed(seed)
        self.network: VAE = arithmetic.place(build(architecture, **sizes))  # type: ignore[assignment]
        self.unet: UNet | None = None
        if unet is not None:
            self.unet = arithmetic.place(unet.eval().requires_grad_(False))  # type: ignore[assignment]
        optimizer = torch.optim.Adam if self.published else torch.optim.AdamW
        self.optimizer = optimizer(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.modules: Mapping[str, nn.Module] = {"network": self.network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"network": self.optimizer}
        self.config, self.steps, self.seed = config, steps, seed
        self.arithmetic, self.parallel = arithmetic, parallel
        self.training = TurnedMaps(dataset, training, config.rotations, seed, arithmetic.device)
        self.validation = TurnedMaps(dataset, validation[:VALIDATED], 0, seed, arithmetic.device)
        self.condition = condition
        self.vectors = torch.from_numpy(vectors).to(arithmetic.device)

    def step(self, index: int, rng: np.random.Generator) -> dict[str, float]:
        chosen = batch_rows(len(self.training), self.config.batch_size, index, self.seed)
        share = self.parallel.split(len(chosen))
        if not self.published:
            for group in self.optimizer.param_groups:
                group["lr"] = cosine_rate(self.config.learning_rate, index, self.steps)
        noise = share.randn(self.network.latent, device=self.arithmetic.device)
        losses = self.losses(self.training, share.of(chosen), noise)
        descend(losses["loss"], self.optimizer, share)
        # at the end and at once: reading a number waits for the GPU
        return dict(zip(losses, torch.stack([value.detach() for value in losses.values()]).tolist(), strict=True))

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

    @torch.no_grad()
    def validate(self) -> float | None:
        """Eq. 5 on the validation structures, decoded from the means of their codes."""
        if not len(self.validation):
            return None
        self.network.eval()
        parts = np.array_split(np.arange(len(self.validation)), -(-len(self.validation) // self.config.batch_size))
        total = 0.0
        for part in parts:
            nothing = torch.zeros(len(part), self.network.latent, device=self.arithmetic.device)
            total += float(self.losses(self.validation, part, nothing)["loss"]) * len(part)
        self.network.train()
        return total / len(self.validation)

    def export(self) -> dict[str, Any]:
        facts = {"density": self.training.dataset.settings.model_dump(), "condition": self.condition.facts()}
        return record(self.architecture, self.sizes, self.network, **facts)
