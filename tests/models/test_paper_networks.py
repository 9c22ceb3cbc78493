"""``preset = "paper"``: the published networks, layer by layer, and one training step of each."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from voxtal.config import build_config
from voxtal.data.batches import densify
from voxtal.data.dataset import SparseBatch
from voxtal.models.build import build
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout
from voxtal.training.autoencoder_data import Images
from voxtal.training.autoencoder_task import AutoencoderTask
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic
from voxtal.training.gan_task import GANTask

PAPER = build_config({"preset": "paper"})
ALONE = DataParallel()
CPU = Arithmetic(torch.device("cpu"), "float32")
LAYOUT = GraphLayout(PAPER_ELEMENTS, 25, 200)


def conv(inner: int, outer: int, kernel: int, dimensions: int) -> int:
    """Weights and biases of a convolution; a transposed one has as many."""
    return inner * outer * kernel**dimensions + outer


def dense(inner: int, outer: int) -> int:
    return inner * outer + outer


def batch_norm(channels: int) -> int:
    return 2 * channels


STRIDED_2D = sum(conv(i, o, 3, 2) for i, o in pairwise([1, 8, 16, 32, 64, 128, 256, 512]))
"""160 -> 80 -> 40 -> 20 -> 10 -> 5 -> 3 -> 2 pixels."""
EXPECTED = {
    "sites encoder": conv(1, 64, 4, 3) + 4 * conv(64, 64, 4, 3) + dense(64 * 2**3, 200),
    "sites decoder": dense(200, 64 * 2**3) + 4 * conv(64, 64, 4, 3) + conv(64, 1, 4, 3),
    "lattice encoder": conv(1, 64, 4, 3)
    + 2 * conv(64, 64, 4, 3)
    + conv(64, 256, 4, 3)
    + dense(256, 256)
    + dense(256, 25),
    "lattice decoder": dense(25, 256)
    + dense(256, 256)
    + conv(256, 64, 4, 3)
    + 2 * conv(64, 64, 4, 3)
    + conv(64, 1, 4, 3),
    "constraint": STRIDED_2D + conv(512, 512, 3, 2) + dense(512 * 2 * 2, 1),
    "discriminator": STRIDED_2D + conv(512, 512, 3, 2) + dense(512 * 2 * 2, 1),
    "generator": dense(800, 128 * 5 * 5)
    + sum(conv(i, o, 3, 2) + batch_norm(o) for i, o in pairwise([128, 128, 64, 32, 16, 8]))
    + conv(8, 1, 3, 2),
}


def published(name: str) -> nn.Module:
    voxels, train = PAPER.voxels, PAPER.train
    layout = GraphLayout(PAPER_ELEMENTS, train.lattice_ae.latent, train.sites_ae.latent)
    match name.split():
        case ["sites", half]:
            sizes = {"grid": voxels.sites_grid, "width": train.sites_ae.width, "latent": train.sites_ae.latent}
            return getattr(build("paper-sites-ae", **sizes), half)
        case ["lattice", half]:
            sizes = {"grid": voxels.lattice_grid, "width": train.lattice_ae.width, "latent": train.lattice_ae.latent}
            return getattr(build("paper-lattice-ae", **sizes), half)
        case ["generator"]:
            gan = train.ccdcgan
            return build("paper-generator", side=layout.side, width=gan.width, noise=gan.noise)
    return build(f"paper-{name}", side=layout.side)


@pytest.mark.parametrize("name", EXPECTED)
def test_number_of_parameters(name: str) -> None:
    """A layer too many, a wrong width or kernel: it would no longer be the published network."""
    assert sum(parameter.numel() for parameter in published(name).parameters()) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "given", "returned"),
    [
        ("sites encoder", (1, 1, 64, 64, 64), (1, 200)),
        ("sites decoder", (1, 200), (1, 1, 64, 64, 64)),
        ("lattice encoder", (1, 1, 32, 32, 32), (1, 25)),
        ("lattice decoder", (1, 25), (1, 1, 32, 32, 32)),
        ("generator", (2, 800), (2, 160, 160)),
        ("discriminator", (2, 160, 160), (2,)),
        ("constraint", (2, 160, 160), (2,)),
    ],
)
def test_shapes(name: str, given: tuple[int, ...], returned: tuple[int, ...]) -> None:
    """A network that does not fit the published grids or graph."""
    with torch.no_grad():
        assert published(name).eval()(torch.zeros(given)).shape == returned


def test_layers_of_the_discriminator() -> None:
    """Dropout of 0.25 and leaky ReLU of 0.2 have no parameters, so that a count does not see them go."""
    layers = published("discriminator").layers
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == [0.25] * 8
    assert [m.negative_slope for m in layers if isinstance(m, nn.LeakyReLU)] == [0.2] * 8
    assert [m.stride for m in layers if isinstance(m, nn.Conv2d)] == [(2, 2)] * 7 + [(1, 1)]


def test_settings_of_the_preset() -> None:
    """A constant of the paper that somebody tuned."""
    voxels, train = PAPER.voxels, PAPER.train
    assert (voxels.sites_grid, voxels.box_angstrom, voxels.sites_sigma_angstrom) == (64, 15.0, 0.26)
    assert (voxels.lattice_grid, voxels.lattice_sigma_angstrom, voxels.cutoff) == (32, 0.26, 0.02)
    assert voxels.placement == "paper"
    (objective,) = train.ccdcgan.objectives
    assert (objective.property, objective.goal, objective.weight) == ("formation_energy", "low", 0.1)
    assert (train.ccdcgan.learning_rate, train.ccdcgan.batch_size) == (2e-4, 128)
    assert (train.ccdcgan.noise, train.precision, train.warm_start) == (800, "float32", False)
    assert (PAPER.structures.max_atoms, PAPER.structures.max_length_angstrom) == (20, 10.0)


def gaussians(grid: int, batch: int) -> SparseBatch:
    """Two atoms an image."""
    x, y, z = np.meshgrid(*[np.arange(grid)] * 3, indexing="ij")
    images = np.zeros((batch, grid, grid, grid), dtype=np.float32)
    for image in range(batch):
        for centre in (grid // 3 + image, grid // 2):
            images[image] += np.exp(-((x - centre) ** 2 + (y - centre) ** 2 + (z - grid // 2) ** 2) / 2.5)
    images[images < 0.02] = 0
    image, place = np.nonzero(images.reshape(batch, -1))
    return SparseBatch(image, place, images.reshape(batch, -1)[image, place], images.shape)


def graphs(n: int, side: int = 160) -> np.ndarray:
    return np.tanh(np.random.default_rng(0).standard_normal((n, side, side))).astype(np.float32)


def paper_task(name: str) -> Any:
    train = PAPER.train
    if name.endswith("-ae"):
        size = train.sites_ae if name == "sites-ae" else train.lattice_ae
        grid = PAPER.voxels.sites_grid if name == "sites-ae" else PAPER.voxels.lattice_grid
        batch = gaussians(grid, 1)
        sizes = {"grid": grid, "width": size.width, "latent": size.latent}
        data = Images(lambda _rows: densify(batch, CPU.device, torch.float32), True, CPU)
        return AutoencoderTask(f"paper-{name}", sizes, size, 10, data, np.arange(1), CPU, DataParallel(), 0)
    if name == "constraint":
        return ConstraintTask(
            "paper-constraint",
            train.constraint,
            LAYOUT,
            0.1,
            graphs(3),
            np.array([-0.5, 0.1, 0.3]),
            CPU,
            DataParallel(),
            0,
        )
    constraint: Any = build("paper-constraint", side=160)
    return GANTask("paper", train.ccdcgan, graphs(2), {"formation_energy": constraint}, CPU, ALONE, 0)


@pytest.mark.parametrize("name", ["lattice-ae", "sites-ae", "constraint", "ccdcgan"])
def test_one_training_step(name: str) -> None:
    """A loss whose gradient vanishes (as the published threshold's does) trains nothing."""
    torch.manual_seed(0)
    task = paper_task(name)
    trained = {
        f"{module}.{weight}": parameter
        for module, network in task.modules.items()
        for weight, parameter in network.named_parameters()
        if parameter.ndim > 1 and module != "average"
    }
    before = {key: parameter.detach().clone() for key, parameter in trained.items()}
    losses = task.step(0, np.random.default_rng(0))
    assert all(np.isfinite(value) for value in losses.values())
    for key, parameter in trained.items():
        assert torch.isfinite(parameter).all(), key
        assert not torch.equal(parameter, before[key]), key


def test_optimizers_of_the_preset() -> None:
    """Adam at the published rates, constant: warm-up and decay belong to the other preset."""
    for name in ("lattice-ae", "constraint", "ccdcgan"):
        task = paper_task(name)
        task.step(0, np.random.default_rng(0))
        for optimizer in task.optimizers.values():
            assert isinstance(optimizer, torch.optim.Adam)
            assert {group["weight_decay"] for group in optimizer.param_groups} == {0}
            expected = 1e-4 if name == "lattice-ae" else 2e-4
            assert {group["lr"] for group in optimizer.param_groups} == {expected}
