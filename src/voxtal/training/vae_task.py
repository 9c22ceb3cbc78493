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
from voxtal.models.code_density import CodeDensity
from voxtal.models.ions_vae import Ions, IonsVAE
from voxtal.models.unet import UNet
from voxtal.models.vae import VAE, reparameterized
from voxtal.parallel.data_parallel import DataParallel, Share
from voxtal.structures.conditions import Condition
from voxtal.training.checkpoint import load
from voxtal.training.density_data import TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.ion_losses import ion_errors, ion_losses
from voxtal.training.losses import divergence, perceptual_loss
from voxtal.training.maps_task import MapsTask

_MOST_CODES = 2048
"""Crystals whose codes are kept, at most."""


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
        A structure has more ions than ours draws.
    """
    settings = dataset.settings
    sizes = {"grid": settings.grid, "width": config.width, "latent": config.latent, "condition": condition}
    if architecture.startswith("paper"):
        return sizes
    if (most := dataset.atom_counts(np.arange(dataset.n_structures)).max()) > config.ions:
        raise UserError(
            f"{folder}: a structure has {most} atoms, but train.vae.ions = {config.ions}; raise it to those."
        )
    numbers = np.flatnonzero(dataset.species_counts(rows)[1:]) + 1
    more = {"margin": settings.margin, "sigma": settings.sigma_angstrom, "ions": config.ions}
    return sizes | more | {"numbers": numbers.tolist()}


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
        condition = self.told(batch.rows)
        with self.arithmetic.autocast():
            mean, log_variance = self.network.encode(batch.maps, condition)
        mean, log_variance = mean.float(), log_variance.float()
        with self.arithmetic.autocast():
            decoded = self.network.decode(reparameterized(mean, log_variance, noise), condition).float()
        mse = nn.functional.mse_loss(decoded, batch.maps)
        return self.weighed({"mse": mse}, mean, log_variance, self.deep_features(batch.maps, decoded))

    def told(self, rows: np.ndarray) -> Tensor:
        """Condition vectors (b, condition) of structures (b,) of the data set."""
        return self.vectors[torch.from_numpy(rows).to(self.arithmetic.device)]

    def deep_features(self, maps: Tensor, decoded: Tensor) -> Tensor:
        """Third term of eq. 5, without alpha; 0 without a UNet."""
        if self.unet is None:
            return torch.zeros((), device=maps.device)
        with self.arithmetic.autocast():
            return perceptual_loss(self.unet, maps, decoded)

    def weighed(self, terms: dict[str, Tensor], mean: Tensor, log_variance: Tensor, dfc: Tensor) -> dict[str, Tensor]:
        """Eq. 5 with ``terms`` for its first one, and all of them."""
        kld = divergence(mean, log_variance)
        loss = sum(terms.values()) + self.config.beta * kld + self.config.alpha * dfc
        return {"loss": loss, **terms, "kld": kld, "dfc": dfc}

    def export(self) -> dict[str, Any]:
        known = self.condition.numbers(self.vectors[self.training.rows].cpu().numpy())
        return record(
            self.architecture,
            self.sizes,
            self.network,
            density=self.training.dataset.settings.model_dump(),
            condition=self.condition.facts(),
            known=torch.from_numpy(known[np.lexsort(known.T[::-1])].astype(np.float32)),
        )


class IonsVAETask(VAETask):
    """The network that sees ions: their errors take the place of the maps' (:func:`ion_losses`)."""

    network: IonsVAE

    def losses(self, maps: TurnedMaps, chosen: np.ndarray, noise: Tensor) -> dict[str, Tensor]:
        ions, condition = self._ions(maps, chosen)
        mean, log_variance = self.network.encode(ions, condition)
        drawn = self.network.draw(reparameterized(mean, log_variance, noise), condition)
        dfc = torch.zeros((), device=noise.device)
        if self.unet is not None:
            dfc = self.deep_features(maps.batch(chosen).maps, self.network.maps_of(drawn))
        return self.weighed(ion_losses(drawn, ions), mean, log_variance, dfc)

    @torch.no_grad()
    def export(self) -> dict[str, Any]:
        """With where the codes of each condition lie, by training structures that are not turned."""
        step = self.training.rotations + 1
        chosen = np.arange(0, len(self.training), step * -(-len(self.training.rows) // _MOST_CODES))
        codes = []
        self.network.eval()
        for part in np.array_split(chosen, -(-len(chosen) // self.config.batch_size)):
            ions, condition = self._ions(self.training, part)
            mean, log_variance = self.network.encode(ions, condition)
            codes.append([values.double().cpu().numpy() for values in (condition, mean, log_variance.exp())])
        self.network.train()
        density = CodeDensity.of(self.condition, *(np.concatenate(parts) for parts in zip(*codes, strict=True)))
        saved = super().export()
        return saved | {"facts": saved["facts"] | {"codes": density.facts()}}

    def score(self, chosen: np.ndarray) -> float:
        """Errors, not likelihoods: of elements that it is wrong about the network becomes the surer the longer it is
        trained, while everything that is counted gets better."""
        ions, condition = self._ions(self.validation, chosen)
        return float(ion_errors(self.network.draw(self.network.encode(ions, condition)[0], condition), ions))

    def _ions(self, maps: TurnedMaps, chosen: np.ndarray) -> tuple[Ions, Tensor]:
        rows, crystals = maps.crystals(chosen)
        return Ions.of(crystals, self.arithmetic.device), self.told(rows)
