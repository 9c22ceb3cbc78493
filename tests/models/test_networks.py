"""The fast networks, and networks from the record of their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from voxtal.errors import UserError
from voxtal.models.autoencoder import fast_autoencoder, paper_lattice_autoencoder, paper_sites_autoencoder
from voxtal.models.build import ARCHITECTURES, build, record, restore
from voxtal.models.constraint import token_constraint
from voxtal.models.gan import PaperGenerator
from voxtal.training.checkpoint import load, save

SMALL = {
    "lattice-ae": {"grid": 8, "width": 2, "latent": 3},
    "sites-ae": {"grid": 16, "width": 2, "latent": 3},
    "constraint": {"side": 20},
    "generator": {"side": 20, "width": 8, "noise": 4},
    "discriminator": {"side": 20},
    "unet": {"grid": 16, "numbers": [8, 22, 38], "width": 4, "levels": 2},
}
OTHER_INPUTS = ("atoms", "flow", "analogue")
"""Kinds that take more than a tensor, as do the roles ``vae`` and ``cgcnn``: they have tests of their own."""


TOKENS: dict[str, Any] = {
    "elements": [3, 29, 79],
    "lattice_latent": 6,
    "sites_latent": 10,
    "threshold": 0.1,
    "width": 8,
}


def small_sizes(architecture: str) -> dict[str, Any]:
    role = architecture.partition("-")[2]
    if architecture == "laptop-constraint":
        return TOKENS
    more = {"laptop-discriminator": {"width": 4}, "laptop-unet": {"margin": 0.25}}
    return SMALL[role] | more.get(architecture, {})


def example(architecture: str, sizes: dict[str, Any]) -> torch.Tensor:
    if architecture.endswith("-ae"):
        return torch.rand(2, 1, *[sizes["grid"]] * 3)
    if architecture.endswith("-unet"):
        return torch.rand(2, 4, *[sizes["grid"]] * 3)
    return torch.randn(2, sizes["noise"]) if "noise" in sizes else torch.randn(2, *2 * [sizes.get("side", 16)])


@pytest.mark.parametrize(
    "architecture",
    [name for name in ARCHITECTURES if not (name.startswith(OTHER_INPUTS) or name.endswith(("-vae", "-cgcnn")))],
)
def test_network_comes_back_from_its_file(architecture: str, tmp_path: Path) -> None:
    """A best.pt that later stages build another network from."""
    sizes = small_sizes(architecture)
    network: Any = build(architecture, **sizes)
    given = example(architecture, sizes)
    with torch.no_grad():
        network.train()(given)  # batch norm's running means are part of what is kept
        save(tmp_path / "best.pt", record(architecture, sizes, network))
        again = restore(load(tmp_path / "best.pt", "voxtal train"))
        assert not again.training
        torch.testing.assert_close(again(given), network.eval()(given), rtol=0, atol=0)


def test_record_does_not_change_with_the_network() -> None:
    """Weights that are still trained on after they were chosen as the best ones."""
    network = token_constraint(**TOKENS)
    kept = record("laptop-constraint", TOKENS, network)
    before = {name: value.clone() for name, value in kept["weights"].items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[name]) for name, value in kept["weights"].items())


@pytest.mark.parametrize("grid", [8, 16, 32])
def test_fast_autoencoder_starts_at_empty(grid: int) -> None:
    """Sparse images: a network that starts half full spends its first minute on emptying the image."""
    network = fast_autoencoder(grid, 4, 6).eval()
    with torch.no_grad():
        codes = network.encode(torch.rand(3, 1, grid, grid, grid))
        images = network.decode(codes)
    assert codes.shape == (3, 6)
    assert codes.abs().max() < 1
    assert images.shape == (3, 1, grid, grid, grid)
    assert images.mean() < 0.05


@pytest.mark.parametrize("width", [1, 3, 6, 16])
def test_any_width_makes_a_network(width: int) -> None:
    """Norms over groups of channels that do not divide the width."""
    assert fast_autoencoder(8, width, 3)(torch.rand(2, 1, 8, 8, 8)).shape == (2, 1, 8, 8, 8)


@pytest.mark.parametrize("make", [fast_autoencoder, paper_sites_autoencoder, paper_lattice_autoencoder])
@pytest.mark.parametrize("grid", [2, 24])
def test_grid_that_does_not_halve_is_refused(make: Any, grid: int) -> None:
    """A mirror image of another size than its original; the user who asked for it is told which setting to change."""
    with pytest.raises(UserError, match=r"grid of \d+ voxels.*voxels\.sites_grid.*power of two"):
        make(grid, 4, 6)


def test_graph_that_no_generator_reaches_is_refused() -> None:
    """A side of 24 pixels would be generated as another one."""
    with pytest.raises(ValueError, match="power of two"):
        PaperGenerator(24, 8, 4)


def test_constraint_predicts_in_the_targets_unit() -> None:
    """A prediction in standard deviations instead of eV/atom."""
    network = token_constraint(**TOKENS).eval()
    graphs = torch.randn(5, 16, 16)
    raw = network(graphs)
    targets = torch.tensor([-1.0, -2.0, -4.0])
    network.set_scale(targets)
    assert torch.allclose(network(graphs), raw * targets.std() + targets.mean())


def test_constraint_of_one_target_stays_finite() -> None:
    """The standard deviation of one number is no number."""
    network = token_constraint(**TOKENS).eval()
    network.set_scale(torch.tensor([-0.3]))
    assert torch.isfinite(network(torch.zeros(1, 16, 16))).all()
