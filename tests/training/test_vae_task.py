"""Training of the VAE: eqs. 4 and 5, what it is told, and which maps it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from voxtal.config import VAEConfig, build_config
from voxtal.data.dataset import DensityDataset
from voxtal.data.voxelize import voxelize
from voxtal.errors import UserError
from voxtal.models.build import build
from voxtal.models.ions_vae import Ions
from voxtal.models.unet import PublishedUNet
from voxtal.parallel.communicator import SerialCommunicator
from voxtal.parallel.data_parallel import DataParallel
from voxtal.representations.density import DensityGrid, cell_from_coordinates, render_density
from voxtal.representations.ionic_radii import ionic_radii
from voxtal.representations.placement import cell_from_metric
from voxtal.structures.conditions import Condition, decile_of
from voxtal.structures.splits import VALIDATION, in_split, training_rows, with_split
from voxtal.structures.structure_set import StructureSet
from voxtal.training.checkpoint import save
from voxtal.training.density_data import TurnedMaps
from voxtal.training.device import Arithmetic
from voxtal.training.losses import divergence, perceptual_loss
from voxtal.training.vae_task import IonsVAETask, VAETask, load_unet, sizes_of

CPU = Arithmetic(torch.device("cpu"), "float32")
SETTINGS = build_config({"density": {"grid": 16, "structures_per_shard": 8}}).density
CONFIG = build_config(
    {"train": {"vae": {"width": 4, "latent": 8, "ions": 6, "steps": 60, "batch_size": 6, "learning_rate": 5e-3}}}
).train.vae
FIRST_TERMS = {"paper-vae": ["mse"], "laptop-vae": ["place", "element", "presence", "count", "cell"]}
"""What eq. 5 compares maps by, or their ions."""
SITES = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


@pytest.fixture(scope="module")
def perovskites(tmp_path_factory: pytest.TempPathFactory) -> tuple[StructureSet, DensityDataset]:
    """Eighteen ABO3 as maps, each with an energy."""
    pairs = [(a, b) for a in ("Ca", "Sr", "Ba", "La", "Pb", "K") for b in ("Ti", "Zr", "Nb")]
    structures = [
        Structure(Lattice.cubic(3.8 + 0.05 * i), [a, b, "O", "O", "O"], SITES) for i, (a, b) in enumerate(pairs)
    ]
    folder = tmp_path_factory.mktemp("perovskites")
    energies = np.linspace(-3, 0, len(pairs))
    given = StructureSet.from_structures(structures, [f"{a}{b}O3" for a, b in pairs], {"formation_energy": energies})
    given = with_split(given, "composition", 0.1, 0.2, 0)
    given.write(folder / "structures.h5")
    voxelize(folder / "structures.h5", folder / "density", SETTINGS, SerialCommunicator())
    return given, DensityDataset(folder / "density")


def task_of(
    perovskites: Any, architecture: str = "laptop-vae", unet: Any = None, config: VAEConfig = CONFIG
) -> VAETask:
    structures, dataset = perovskites
    rows = np.flatnonzero(training_rows(structures, dataset.rows))
    values = {"formation_energy": structures.properties["formation_energy"][dataset.rows]}
    condition = Condition.of(values, rows, config.continuous_condition)
    kind = VAETask if architecture == "paper-vae" else IonsVAETask
    return kind(
        architecture,
        sizes_of(architecture, config, dataset, rows, condition.width, Path()),
        config,
        config.steps,
        dataset,
        rows,
        np.flatnonzero(in_split(structures, dataset.rows, VALIDATION)),
        condition,
        condition.encode(values),
        unet,
        CPU,
        DataParallel(),
        0,
    )


def unet_of(architecture: str) -> Any:
    more = {"margin": SETTINGS.margin} if architecture.startswith("laptop") else {}
    return build(architecture, grid=16, numbers=[8, 22, 38], width=4, levels=2, **more)


def test_divergence_is_that_of_gaussians() -> None:
    """Against torch's own, summed over the latent dimensions; a mean over them is 256 times too little."""
    mean, log_variance = torch.randn(5, 8), torch.randn(5, 8)
    ours = divergence(mean, log_variance)
    gaussian = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("architecture", ["paper-unet", "laptop-unet"])
def test_perceptual_loss_is_equation_5(architecture: str) -> None:
    """A mean squared difference for each phi_p, which reaches the decoded maps and not the UNet's weights."""
    unet = unet_of(architecture).eval().requires_grad_(False)
    maps, decoded = torch.rand(2, 4, 16, 16, 16), torch.rand(2, 4, 16, 16, 16, requires_grad=True)
    loss = perceptual_loss(unet, maps, decoded)
    parts = [
        torch.nn.functional.mse_loss(found, expected)
        for found, expected in zip(unet.perceptual(decoded), unet.perceptual(maps), strict=True)
    ]
    torch.testing.assert_close(loss, torch.stack(parts).sum())
    assert perceptual_loss(unet, maps, maps).item() == 0
    loss.backward()
    assert decoded.grad is not None
    assert torch.isfinite(decoded.grad).all()
    assert decoded.grad.abs().sum() > 0


@pytest.mark.parametrize(("architecture", "unet"), [("paper-vae", "paper-unet"), ("laptop-vae", "laptop-unet")])
def test_loss_is_the_sum_of_its_terms(perovskites: Any, architecture: str, unet: str) -> None:
    """Weights alpha and beta of the configuration, and terms that are logged as they are."""
    config = CONFIG.model_copy(update={"alpha": 0.7, "beta": 0.03})
    terms = task_of(perovskites, architecture, unet_of(unet), config).step(0, np.random.default_rng(0))
    first = FIRST_TERMS[architecture]
    assert set(terms) == {"loss", *first, "kld", "dfc"}
    expected = sum(terms[name] for name in first) + 0.03 * terms["kld"] + 0.7 * terms["dfc"]
    assert terms["loss"] == pytest.approx(expected, rel=1e-4)
    assert min(terms.values()) > 0


@pytest.mark.parametrize(("architecture", "left"), [("paper-vae", 0.85), ("laptop-vae", 0.6)])
def test_it_learns(perovskites: Any, architecture: str, left: float) -> None:
    """Maps come back better; without a UNet there is no deep feature, and no failure."""
    task = task_of(perovskites, architecture)
    losses = []
    for index in range(CONFIG.steps):
        torch.manual_seed(index)
        losses.append(task.step(index, np.random.default_rng(index)))
    errors = [sum(terms[name] for name in FIRST_TERMS[architecture]) for terms in losses]
    first, last = np.mean(errors[:6]), np.mean(errors[-6:])
    assert last < left * first
    assert losses[0]["dfc"] == 0
    score = task.validate()
    assert score is not None
    assert np.isfinite(score)


def test_the_unet_stays_as_it_is(perovskites: Any) -> None:
    """It is the measure; one that learned would make everything look alike."""
    unet = unet_of("paper-unet")
    assert isinstance(unet, PublishedUNet)
    task = task_of(perovskites, "paper-vae", unet)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    task.step(0, np.random.default_rng(0))
    assert task.unet is not None
    assert all(torch.equal(value, before[name]) for name, value in task.unet.state_dict().items())


def test_condition_is_kept_with_the_network(perovskites: Any) -> None:
    """Edges of other data, or none, would make another decile of the same value."""
    facts = task_of(perovskites).export()["facts"]
    structures, dataset = perovskites
    rows = training_rows(structures, dataset.rows)
    energies = structures.properties["formation_energy"][dataset.rows]
    assert facts["condition"]["properties"] == ["formation_energy"]
    assert np.allclose(facts["condition"]["edges"], [np.quantile(energies[rows], np.arange(1, 10) / 10)])
    assert facts["density"] == SETTINGS.model_dump()


@pytest.mark.parametrize("continuous", [False, True])
def test_conditions_of_the_training_structures_are_kept(perovskites: Any, continuous: bool) -> None:
    """Attempts would be told what no structure was trained with: a held-out one's, or none at all."""
    config = CONFIG.model_copy(update={"continuous_condition": continuous})
    task = task_of(perovskites, config=config)
    structures, dataset = perovskites
    rows = training_rows(structures, dataset.rows)
    energies = np.sort(structures.properties["formation_energy"][dataset.rows[rows]])
    known = task.export()["facts"]["known"].numpy()
    expected = energies if continuous else decile_of(energies, task.condition.edges[0])
    found = task.condition.told(task.condition.vectors(known))["formation_energy"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_codes_of_the_training_structures_are_kept(perovskites: Any) -> None:
    """Random attempts would be drawn where no crystal of their condition is, or from structures that are held out."""
    task = task_of(perovskites, "laptop-vae")
    kept = task.export()["facts"]["codes"]
    structures, dataset = perovskites
    rows = np.flatnonzero(training_rows(structures, dataset.rows))
    energies = structures.properties["formation_energy"][dataset.rows[rows]]
    np.testing.assert_array_equal(kept["conditions"][:, 0], decile_of(energies, task.condition.edges[0]))
    with torch.no_grad():
        ions = Ions.of(dataset.crystals(rows), torch.device("cpu"))
        mean, log_variance = task.network.eval().encode(ions, task.vectors[rows])
    torch.testing.assert_close(kept["means"], mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept["variances"], log_variance.exp(), atol=1e-5, rtol=1e-5)
    assert "codes" not in task_of(perovskites, "paper-vae").export()["facts"]


def test_more_ions_than_slots(perovskites: Any) -> None:
    """They would be left out without a word."""
    with pytest.raises(UserError, match=r"5 atoms, but train.vae.ions = 4"):
        sizes_of("laptop-vae", CONFIG.model_copy(update={"ions": 4}), perovskites[1], np.arange(3), 10, Path())


def test_ions_are_those_of_the_turned_maps(perovskites: Any) -> None:
    """Crystal and map of a turn would be two different things: what deep features compare."""
    grid = DensityGrid.of(SETTINGS)
    maps = TurnedMaps(perovskites[1], np.arange(4), 5, 0, CPU.device)
    chosen = np.arange(len(maps))
    batch, (rows, crystals) = maps.batch(chosen), maps.crystals(chosen)
    np.testing.assert_array_equal(rows, batch.rows)
    for drawn, (numbers, frac, cell) in zip(batch.maps.numpy(), crystals, strict=True):
        np.testing.assert_allclose(cell_from_coordinates(drawn[1:], grid), cell, atol=1e-4)
        radii = ionic_radii(numbers)
        expected = render_density(numbers, radii, frac, cell_from_metric(cell @ cell.T), grid)
        np.testing.assert_allclose(drawn[0], expected, atol=2e-3 * expected.max())


def test_unet_of_other_maps_is_refused(tmp_path: Path) -> None:
    """Deep features of another grid or width mean nothing."""
    from voxtal.models.build import record

    sizes: dict[str, Any] = {"grid": 16, "numbers": [8], "width": 4, "levels": 2}
    wide = SETTINGS.model_copy(update={"sigma_angstrom": 1.0}).model_dump()
    save(tmp_path / "best.pt", record("paper-unet", sizes, build("paper-unet", **sizes), density=wide))
    with pytest.raises(UserError, match=r"density.sigma_angstrom = 1.0, these have None"):
        load_unet(tmp_path / "best.pt", SETTINGS)
