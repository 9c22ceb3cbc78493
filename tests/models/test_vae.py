"""The Cond-DFC-VAE: the published layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.models.build import build, record, restore
from voxtal.models.vae import reparameterized

PAPER = build_config({"preset": "paper"})
SIZES: dict[str, Any] = {"grid": 16, "width": 4, "latent": 8, "condition": 10}


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


def test_there_and_back() -> None:
    """Codes, maps of the input's shape, the same from a file; another condition is another map."""
    network: Any = build("paper-vae", **SIZES)
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
        again: Any = restore(record("paper-vae", SIZES, network))
        assert torch.equal(again.decode(mean, condition), decoded)
        assert not torch.allclose(network.decode(mean, torch.eye(10)[3:6]), decoded)


def test_published_grid() -> None:
    """In a message of torch about shapes otherwise."""
    with pytest.raises(UserError, match="multiple of 16, not 24"):
        build("paper-vae", grid=24, width=4, latent=8, condition=10)


def test_every_weight_is_trained() -> None:
    """A layer that is left out on the way."""
    network: Any = build("paper-vae", **SIZES)
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
