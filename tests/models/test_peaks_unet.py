"""The UNet that sees the Gaussians which a density map is a sum of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from voxtal.errors import UserError
from voxtal.models.build import build
from voxtal.models.peaks_unet import FIELDS
from voxtal.representations.density import DensityGrid, coordinate_grid, encode_density

GRID = DensityGrid(32, 0.25, "true")
SIZES: dict[str, Any] = {"grid": 32, "numbers": [8, 20, 22, 38, 40, 56], "width": 4, "levels": 2, "margin": 0.25}
PEROVSKITE = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])


def maps_of(numbers: list[int], cell: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (4, N, N, N) and species map (N, N, N) of a perovskite."""
    maps = encode_density(np.array(numbers), PEROVSKITE, cell, GRID)
    four = np.concatenate([maps.density[None], coordinate_grid(maps.cell, GRID)])
    return torch.from_numpy(four).float(), torch.from_numpy(maps.species).long()


def labelled(network: Any, maps: torch.Tensor, species: torch.Tensor) -> float:
    """Share of the voxels in ions that get their element."""
    with torch.no_grad():
        logits = network.species_logits(network.trunk(maps), species > 0)
    found = network.numbers[1 + logits[:, 1:].argmax(dim=1)].long()
    return float((found == species[species > 0]).float().mean())


def test_clean_maps_are_labelled_without_training() -> None:
    """What is fitted tells the element; training has to learn what is left: ions that hide, and maps that are drawn."""
    network = build("laptop-unet", **SIZES).eval()
    pairs = [maps_of([38, 22, 8, 8, 8], 3.91 * np.eye(3)), maps_of([56, 40, 8, 8, 8], 4.19 * np.eye(3))]
    maps, species = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    assert labelled(network, maps, species) > 0.97


def test_turned_maps_are_labelled_too() -> None:
    """A turned map's axes are its coordinate grid's, not those of a cell along x, y and z."""
    network = build("laptop-unet", **SIZES).eval()
    maps, species = maps_of([56, 40, 8, 8, 8], 4.19 * np.eye(3))
    turned = torch.rot90(maps, 1, (1, 3))[None].contiguous()
    assert labelled(network, turned, torch.rot90(species, 1, (0, 2))[None].contiguous()) > 0.97


@pytest.mark.parametrize("maps", [torch.zeros(1, 4, 32, 32, 32), torch.rand(1, 4, 32, 32, 32)])
def test_maps_of_nothing(maps: torch.Tensor) -> None:
    """A box without volume, or noise: no Gaussian, and a network that goes on."""
    network: Any = build("laptop-unet", **SIZES).eval()
    features = network.trunk(maps)
    assert features.shape == (1, SIZES["width"] + FIELDS, 32, 32, 32)
    species, binary = network.segment(maps, 0.5)
    assert species.shape == binary.shape == (1, 32, 32, 32)
    assert torch.isfinite(binary).all()


def test_deep_features_lead_back_to_the_map() -> None:
    """The VAE learns from them: fitting has no slope, convolutions have."""
    network: Any = build("laptop-unet", **SIZES).eval()
    maps = maps_of([56, 40, 8, 8, 8], 4.19 * np.eye(3))[0][None].requires_grad_()
    torch.stack([phi.square().mean() for phi in network.perceptual(maps)]).sum().backward()
    assert maps.grad is not None
    assert torch.isfinite(maps.grad).all()
    assert maps.grad[:, 0].abs().sum() > 0


def test_grid_that_cannot_be_halved() -> None:
    """Convolutions are on half the grid, which is halved again at each level."""
    with pytest.raises(UserError, match="20 voxels cannot be halved 3 times"):
        build("laptop-unet", **SIZES | {"grid": 20})
