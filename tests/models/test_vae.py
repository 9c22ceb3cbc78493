"""The Cond-DFC-VAE: the published layers, and boxes and ions of ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.models.build import build, record, restore
from voxtal.models.vae import Coordinates, reparameterized
from voxtal.representations.density import DensityGrid, cell_from_coordinates, coordinate_grid, encode_density

PAPER = build_config({"preset": "paper"})
SIZES: dict[str, dict[str, Any]] = {
    "paper-vae": {"grid": 16, "width": 4, "latent": 8, "condition": 10},
    "laptop-vae": {"grid": 16, "width": 4, "latent": 8, "condition": 10, "ions": 5},
}


def test_settings_of_the_preset() -> None:
    """A constant of table 6 that somebody tuned."""
    config = PAPER.train.vae
    assert (config.learning_rate, config.batch_size, config.epochs, config.rotations) == (1e-4, 20, 50, 10)
    assert (config.width, config.latent, config.alpha, config.beta) == (16, 256, 1.0, 5e-4)
    assert config.condition == ("formation_energy",)


def test_published_layers() -> None:
    """16 to 128 channels down, 4 of code, 128 to 16 back, 4 maps out; the condition is tiled over the grid."""
    network = build("paper-vae", grid=32, width=16, latent=256, condition=10)
    shapes = [(c.in_channels, c.out_channels) for c in network.modules() if isinstance(c, nn.Conv3d)]
    down = [(14, 16), (16, 32), (32, 64), (64, 128), (128, 4)]
    assert shapes == [*down, (4, 128), (128, 64), (64, 32), (32, 16), (16, 4)]
    dense = [(d.in_features, d.out_features) for d in network.modules() if isinstance(d, nn.Linear)]
    assert sorted(dense) == sorted([(4 * 2**3, 256), (256, 256), (256, 256), (266, 4 * 4**3)])


@pytest.mark.parametrize("architecture", SIZES)
def test_there_and_back(architecture: str) -> None:
    """Codes, maps of the input's shape, the same from a file; another condition is another map."""
    network: Any = build(architecture, **SIZES[architecture])
    maps = torch.rand(3, 4, 16, 16, 16)
    condition = torch.eye(10)[:3]
    with torch.no_grad():
        network.decode(network.encode(maps, condition)[0], condition)  # batch norm's means are part of what is kept
        network.eval()
        mean, log_variance = network.encode(maps, condition)
        assert mean.shape == log_variance.shape == (3, 8)
        decoded = network.decode(mean, condition)
        assert decoded.shape == maps.shape
        assert torch.isfinite(decoded).all()
        again: Any = restore(record(architecture, SIZES[architecture], network))
        assert torch.equal(again.decode(mean, condition), decoded)
        assert not torch.allclose(network.decode(mean, torch.eye(10)[3:6]), decoded)


def test_published_grid() -> None:
    """In a message of torch about shapes otherwise."""
    with pytest.raises(UserError, match="multiple of 16, not 24"):
        build("paper-vae", grid=24, width=4, latent=8, condition=10)


@pytest.mark.parametrize("architecture", SIZES)
def test_every_weight_is_trained(architecture: str) -> None:
    """A layer that is left out on the way."""
    network: Any = build(architecture, **SIZES[architecture])
    maps, condition = torch.rand(4, 4, 16, 16, 16), torch.eye(10)[:4]
    mean, log_variance = network.encode(maps, condition)
    codes = reparameterized(mean, log_variance, torch.randn_like(mean))
    network.decode(codes, condition).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    without = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.abs().sum() > 0]
    assert without == []


def test_codes_are_drawn_with_the_variance() -> None:
    """With its root's root, or its double, codes would be too near or too far."""
    noise = torch.randn(20_000, 1)
    codes = reparameterized(torch.full((20_000, 1), 3.0), torch.full((20_000, 1), float(np.log(4.0))), noise)
    assert codes.mean().item() == pytest.approx(3, abs=0.1)
    assert codes.std().item() == pytest.approx(2, abs=0.05)


@given(st.lists(st.floats(2.5, 9), min_size=9, max_size=9), st.permutations(range(3)))
def test_boxes_are_numbers_and_back(values: list[float], order: list[int]) -> None:
    """Coordinate grids of any cell, turned too, are linear in twelve numbers; their edges are the box's."""
    cell = np.diag(values[:3])[order] + 0.02 * np.reshape(values, (3, 3))
    grid = DensityGrid(16, 0.25, "true")
    maps = torch.from_numpy(coordinate_grid(cell, grid))[None]
    coordinates = Coordinates(16)
    numbers = coordinates.numbers(maps)
    torch.testing.assert_close(coordinates.grids(numbers), maps, atol=1e-4, rtol=1e-5)
    edges = np.linalg.norm(cell, axis=1) * 1.5
    torch.testing.assert_close(coordinates.edges(numbers)[0].double(), torch.from_numpy(edges), atol=1e-4, rtol=1e-4)


@given(st.lists(st.floats(-1, 1), min_size=9, max_size=9), st.permutations(range(3)))
def test_right_angles(values: list[float], order: list[int]) -> None:
    """Boxes of an undertrained network: edges stay, angles are 90 degrees; right-angled ones, turned, stay all."""
    coordinates = Coordinates(16)
    turned = np.diag([3.0, -4.0, 5.0])[order]
    for skew in (0.0, 0.8):
        rows = turned + skew * np.reshape(values, (3, 3))
        numbers = torch.from_numpy(np.concatenate([[1.0, 2.0, 3.0], rows.ravel()])).float()[None]
        found = coordinates.right_angled(numbers)
        slopes = found.view(4, 3)[1:]
        products = slopes @ slopes.T
        torch.testing.assert_close(products, torch.diag(products.diagonal()), atol=1e-4, rtol=0)
        torch.testing.assert_close(coordinates.edges(found), coordinates.edges(numbers))
        if not skew:
            torch.testing.assert_close(found, numbers)


def test_ions_are_drawn_as_equation_1_has_them() -> None:
    """Ions with a crystal's places, heights and widths make its density map."""
    grid = DensityGrid(16, 0.25, "true")
    numbers, frac = np.array([56, 22]), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    maps = encode_density(numbers, frac, 4.0 * np.eye(3), grid)
    network: Any = build("laptop-vae", grid=16, width=4, latent=8, condition=10, ions=2).eval()
    from voxtal.representations.density_peaks import log_shapes

    heights, widths = np.exp(log_shapes(numbers, grid)).T
    places = (maps.sites + 0.25) / 1.5 - 0.5

    def inverse(value: np.ndarray, low: float, high: float) -> np.ndarray:
        share = np.log(value / low) / np.log(high / low)
        return np.log(share / (1 - share))

    drawn = np.column_stack(
        [np.arctanh(places / 0.6), inverse(heights, *network.HEIGHTS), inverse(widths, *network.WIDTHS)]
    )
    box = network.coordinates.numbers(torch.from_numpy(coordinate_grid(maps.cell, grid))[None])
    with torch.no_grad():
        for layer, value in ((network.drawn, drawn.ravel()), (network.box, box[0].numpy())):
            layer.weight.zero_()
            layer.bias.copy_(torch.from_numpy(np.asarray(value)).float())
        decoded = network.decode(torch.zeros(1, 8), torch.eye(10)[:1])[0].numpy()
    np.testing.assert_allclose(decoded[0], maps.density, atol=2e-4 * maps.density.max())
    np.testing.assert_allclose(cell_from_coordinates(decoded[1:], grid), maps.cell, atol=1e-3)
