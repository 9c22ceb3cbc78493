"""The published UNet against the paper and its authors' released weights, and what the VAE takes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.models.build import build, record, restore
from voxtal.representations.watershed import BINARY_THRESHOLD

PAPER = build_config({"preset": "paper"})
RELEASED_BYTES = 124_803_392
"""Of the authors' released weights without the optimizer's state, float32, with some headers."""


def published(levels: int, width: int = 32, grid: int = 32) -> Any:
    return build("paper-unet", grid=grid, numbers=list(range(1, 95)), width=width, levels=levels)


def convolutions(network: nn.Module) -> list[tuple[int, int]]:
    return [(c.in_channels, c.out_channels) for c in network.modules() if isinstance(c, nn.Conv3d)]


def test_settings_of_the_preset() -> None:
    """A constant of table 6 that somebody tuned."""
    config = PAPER.train.unet
    assert (config.learning_rate, config.batch_size, config.epochs, config.rotations) == (3e-6, 10, 50, 10)
    assert config.steps_for(100) == 50 * 110
    assert (PAPER.density.grid, PAPER.density.margin, PAPER.density.sigma_angstrom) == (32, 0.25, None)


def test_published_layers() -> None:
    """Four levels of two convolutions, a bottom of two, four levels back with what the way down had, two heads."""
    config = PAPER.train.unet
    network = published(config.levels, config.width)
    down = [(4, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    up = [(1024, 512), (512, 512), (768, 512), (512, 256), (384, 256), (256, 128), (192, 128), (128, 128)]
    assert convolutions(network) == [*down, (512, 512), (512, 512), *up, (128, 95), (128, 1)]
    kernels = {c.kernel_size for c in network.modules() if isinstance(c, nn.Conv3d)}
    assert kernels == {(3, 3, 3), (1, 1, 1)}
    for block in [*network.down, network.bottom, *network.up]:
        kinds = [type(layer) for layer in (*block.layers, block.rest)]
        assert kinds == [nn.Conv3d, nn.ReLU, nn.BatchNorm3d] * 2


def test_released_network() -> None:
    """With three levels it has as many numbers as the authors' file, to within the file's headers."""
    network = published(3)
    size = 4 * sum(value.numel() for value in network.state_dict().values() if value.is_floating_point())
    assert 0 < RELEASED_BYTES - size < 200_000
    assert len(convolutions(network)) == 16


@pytest.mark.parametrize("levels", [3, 4])
def test_shapes(levels: int) -> None:
    """Both outputs on the input's grid; phi_p halve it, the bottom's among them where there are three levels."""
    network = published(levels, width=4, grid=16).eval()
    maps = torch.rand(2, 4, 16, 16, 16)
    logits, binary = network(maps)
    assert logits.shape == (2, 95, 16, 16, 16)
    assert binary.shape == (2, 16, 16, 16)
    shapes = [tuple(phi.shape[1:3]) for phi in network.perceptual(maps)]
    assert shapes == [(8, 16), (16, 8), (32, 4), (64, 2)]


@pytest.mark.parametrize("architecture", ["paper-unet", "laptop-unet"])
def test_parts_agree(architecture: str) -> None:
    """Logits of some voxels, species maps and phi_p are those of the whole network, also of one read from a file."""
    sizes: dict[str, Any] = {"grid": 8, "numbers": [8, 22, 38], "width": 4, "levels": 2}
    sizes |= {"margin": 0.25} if architecture.startswith("laptop") else {}
    network: Any = build(architecture, **sizes).eval()
    maps = torch.rand(3, 4, 8, 8, 8)
    with torch.no_grad():
        logits, binary = network(maps)
        features = network.trunk(maps)
        where = torch.rand(3, 8, 8, 8) < 0.3
        torch.testing.assert_close(network.species_logits(features, where), logits.movedim(1, -1)[where])
        torch.testing.assert_close(network.binary_logits(features), binary)
        threshold = float(torch.sigmoid(binary).median())
        expected = network.numbers[1 + logits[:, 1:].argmax(1)] * (torch.sigmoid(binary) >= threshold)
        assert torch.equal(network.segment(maps, threshold)[0], expected)
        assert expected.unique().tolist() != [0]
        again: Any = restore(record(architecture, sizes, network))
        assert torch.equal(again.segment(maps, threshold)[0], expected)
        activations = list(network.perceptual(maps))
        assert len(activations) == 3
        torch.testing.assert_close(activations[0], network.down[0].layers(network.prepare(maps)))
    assert 0 < BINARY_THRESHOLD < 1


def test_every_weight_is_trained() -> None:
    """A level that is skipped on the way, or one that nothing is learned in."""
    network = build("laptop-unet", grid=16, numbers=[8, 22], width=4, levels=2, margin=0.25)
    logits, binary = network(torch.rand(2, 4, 16, 16, 16))
    (logits.square().mean() + binary.square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_grid_that_cannot_be_halved() -> None:
    """Skipped and enlarged features of other sizes, in a message of torch."""
    with pytest.raises(UserError, match="12 voxels cannot be halved 3 times"):
        published(3, grid=12)
