"""Sections of the configuration that belong to ICSG3D: its maps, and the networks that are trained on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from voxtal.config_base import GeneratorConfig, ModelConfig, Section, one_or_more


class DensityConfig(Section):
    """Grid of the density, species and coordinate maps (reference: ICSG3D, section Methods)."""

    grid: int = Field(default=32, ge=8, le=128)
    margin: float = Field(default=0.25, ge=0, le=1)
    """Share of an edge by which the box extends the cell on every side (the paper's epsilon)."""
    geometry: Annotated[
        Literal["true", "orthogonal"], BeforeValidator(lambda value: "true" if value is True else value)
    ]
    """``orthogonal``: cells as if their angles were 90 degrees, as published. ``true``: distances in the cell (TOML's
    ``true`` is taken for it as well)."""
    sigma_angstrom: float | None = Field(default=None, gt=0)
    """Width of every ion's Gaussian; if not given its ionic radius, as published. The paper compares with 1.0."""
    structures_per_shard: int = Field(default=256, ge=1)


class MapsModelConfig(ModelConfig):
    """One that is trained on density maps."""

    steps: int = Field(ge=0)
    """0: as many as ``epochs`` take."""
    epochs: int = Field(default=50, ge=1)
    """Passes over the training structures, each as it is and turned."""
    rotations: int = Field(default=10, ge=0)
    """Random quarter turns of each structure."""

    def steps_for(self, structures: int) -> int:
        maps = structures * (self.rotations + 1)
        return self.steps or self.epochs * (maps // min(maps, self.batch_size))


class UNetConfig(MapsModelConfig):
    levels: int = Field(ge=1)
    """How often the grid is halved."""


class VAEConfig(MapsModelConfig, GeneratorConfig):
    latent: int = Field(ge=1)
    alpha: float = Field(ge=0)
    """Weight of the UNet's features in the loss (eq. 5); 0: a VAE without DFC, which needs no UNet."""
    beta: float = Field(ge=0)
    """Weight of the Kullback-Leibler divergence (eq. 4)."""
    condition: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = Field(
        default=("formation_energy",), min_length=1
    )
    """Numeric columns of the structure set that are told to encoder and decoder."""
    continuous_condition: bool = False
    """The values themselves instead of their one-hot deciles."""
    ions: int = Field(default=48, ge=1)
    """Most ions that the decoder of the preset ``laptop`` draws."""
