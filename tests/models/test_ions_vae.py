"""The VAE that sees ions: eq. 1's maps of what it draws, in any cell, and codes that are of the crystal alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voxtal.models.build import build, record, restore
from voxtal.models.ions_vae import DrawnIons, Ions, IonsVAE
from voxtal.models.vae import reparameterized
from voxtal.representations.density import (
    Crystal,
    DensityGrid,
    cell_from_coordinates,
    coordinate_grid,
    encode_density,
    placed_sites,
)
from voxtal.training.ion_losses import ion_errors, ion_losses

SIZES: dict[str, Any] = {
    "grid": 16,
    "margin": 0.25,
    "sigma": None,
    "width": 16,
    "latent": 8,
    "condition": 10,
    "ions": 6,
    "numbers": [3, 8, 17, 22, 56],
}
GRID = DensityGrid(16, 0.25, "true")
SITES = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
PEROVSKITE: Crystal = (np.array([56, 22, 8, 8, 8]), SITES, 4.0 * np.eye(3))
CPU = torch.device("cpu")


def network(**other: Any) -> IonsVAE:
    torch.manual_seed(0)
    built: Any = build("laptop-vae", **SIZES | other)
    return built.eval()


def sure(ions: Ions, slots: int) -> DrawnIons:
    """What a decoder without any doubt says of crystals, in slots from the last to the first."""
    (b, n), size = ions.numbers.shape, 30.0
    numbers = torch.zeros(b, slots, dtype=torch.int64)
    places = torch.rand(b, slots, 3)
    numbers[:, slots - n :], places[:, slots - n :] = ions.numbers.flip(1), ions.places.flip(1)
    return DrawnIons(
        size * (2.0 * (numbers > 0) - 1),
        places,
        torch.eye(slots).expand(b, -1, -1).add(1e-30).log(),  # a kind for each
        torch.nn.functional.one_hot(numbers, 119).add(1e-30).log(),
        ions.shapes,
        size * torch.nn.functional.one_hot(ions.counts, slots + 1).float(),
    )


lengths = st.lists(st.floats(2.5, 9), min_size=3, max_size=3)
cosines = st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=3)


@given(lengths, cosines, st.integers(1, 6), st.integers(0, 2**31))
def test_ions_are_drawn_as_equation_1_has_them(edges: list[float], angles: list[float], n: int, seed: int) -> None:
    """Ions of a crystal make its density map and its coordinate grid, whatever its cell, and are the crystal again."""
    random = np.random.default_rng(seed)
    metric = np.eye(3)
    metric[[0, 0, 1], [1, 2, 2]] = metric[[1, 2, 2], [0, 0, 1]] = angles
    cell = np.linalg.cholesky(metric * np.outer(edges, edges))
    numbers = random.choice([8, 22, 38, 55, 82], n)
    sites, cell = placed_sites(random.random((n, 3)), cell, GRID)
    drawn = sure(Ions.of([(numbers, sites, cell)], CPU), 6)
    maps = network().maps_of(drawn)[0].numpy()
    expected = encode_density(numbers, sites, cell, GRID)
    np.testing.assert_allclose(maps[0], expected.density, atol=1e-3 * expected.density.max())
    np.testing.assert_allclose(maps[1:], coordinate_grid(cell, GRID), atol=1e-3)
    np.testing.assert_allclose(cell_from_coordinates(maps[1:], GRID), cell, atol=1e-3)
    found, places, box = drawn.crystals()[0]
    np.testing.assert_array_equal(found, numbers[::-1])
    np.testing.assert_allclose(places, sites[::-1], atol=1e-6)
    np.testing.assert_allclose(box, cell, atol=1e-4)


def test_one_width_for_all_ions() -> None:
    """Maps with `sigma_angstrom` would be drawn with ionic radii."""
    wide = DensityGrid(16, 0.25, "true", 1.0)
    maps = network(sigma=1.0).maps_of(sure(Ions.of([PEROVSKITE], CPU), 6))[0, 0].numpy()
    expected = encode_density(*PEROVSKITE, wide).density
    np.testing.assert_allclose(maps, expected, atol=1e-4 * expected.max())


def test_codes_are_of_the_crystal() -> None:
    """The order in which ions are listed, or how many slots are empty, would be learned instead of the crystal."""
    vae, condition = network(), torch.eye(10)[:1]
    order = np.array([3, 1, 4, 0, 2])
    numbers, sites, cell = PEROVSKITE
    with torch.no_grad():
        code = vae.encode(Ions.of([PEROVSKITE], CPU), condition)[0]
        larger = (np.tile(numbers, 2), np.random.default_rng(0).random((10, 3)), cell)
        again = vae.encode(Ions.of([(numbers[order], sites[order], cell), larger], CPU), torch.eye(10)[:2])[0][:1]
        other = vae.encode(Ions.of([(numbers[order], sites, cell)], CPU), condition)[0]
    torch.testing.assert_close(code, again, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(code, other, atol=1e-3)


def test_there_and_back_from_a_file() -> None:
    """The same maps from the same code; another condition is another crystal."""
    vae = network()
    codes, conditions = torch.randn(3, 8), torch.eye(10)[:3]
    again: Any = restore(record("laptop-vae", SIZES, vae))
    with torch.no_grad():
        maps = vae.decode(codes, conditions)
        assert maps.shape == (3, 4, 16, 16, 16)
        assert torch.equal(again.decode(codes, conditions), maps)
        assert not torch.allclose(vae.draw(codes, torch.eye(10)[3:6]).places, vae.draw(codes, conditions).places)


def test_every_weight_is_trained() -> None:
    """A layer that is left out on the way, and maps that give the elements no gradient."""
    vae, conditions = network().train(), torch.eye(10)[:2]
    ions = Ions.of([PEROVSKITE, (np.array([3, 17]), SITES[:2], 5.0 * np.eye(3))], CPU)
    mean, log_variance = vae.encode(ions, conditions)
    drawn = vae.draw(reparameterized(mean, log_variance, torch.randn_like(mean)), conditions)
    sum(ion_losses(drawn, ions).values()).backward()  # type: ignore[union-attr]
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters() if p.grad is not None)
    vae.zero_grad()
    vae.decode(torch.randn(2, 8), conditions).square().mean().backward()
    of_maps = {name.split(".")[0] for name, p in vae.named_parameters() if p.grad is not None and p.grad.any()}
    assert of_maps >= {"decoder", "slots", "likeness", "element", "shapes"}


def test_elements_of_the_training_set_alone() -> None:
    """An undertrained network would draw helium."""
    with torch.no_grad():
        drawn = network().draw(3 * torch.randn(200, 8), torch.eye(10).repeat(20, 1))
    assert set(drawn.numbers.flatten().tolist()) - {0} <= set(SIZES["numbers"])
    torch.testing.assert_close(drawn.elements.exp()[..., SIZES["numbers"]].sum(-1), torch.ones(200, 8))


def test_angles_that_do_not_fit_together() -> None:
    """An undertrained network says such things; it has to be an invalid attempt, not an error of linear algebra."""
    from voxtal.generation.map_decoding import checked

    drawn = sure(Ions.of([PEROVSKITE], CPU), 6)
    shapes = drawn.shapes.clone()
    shapes[:, 3:] = torch.tensor([0.9, 0.9, -0.9])
    broken = replace(drawn, shapes=shapes)
    assert "volume" in checked(*broken.crystals()[0]).reason
    assert torch.isfinite(network().maps_of(broken)).all()


def test_as_many_ions_as_are_counted() -> None:
    """The likeliest slots, and one at least."""
    drawn = sure(Ions.of([PEROVSKITE], CPU), 6)
    for said, kept in ((3, 3), (0, 1), (6, 6)):
        counts = torch.nn.functional.one_hot(torch.tensor([said]), 7).float()
        presence = drawn.presence + torch.arange(6)
        numbers = replace(drawn, presence=presence, counts=counts).numbers[0]
        assert (numbers > 0).sum() == kept
        assert (numbers[6 - kept :] > 0).all()


@pytest.mark.parametrize("shift", [0.0, 0.03])
def test_losses_of_what_is_right(shift: float) -> None:
    """Errors are those of ions against their own slots, wherever those are, in angstrom; none where all is right."""
    ions = Ions.of([PEROVSKITE, (np.array([3, 17]), SITES[:2], 5.0 * np.eye(3))], CPU)
    drawn = sure(ions, 6)
    moved = replace(drawn, places=drawn.places + shift)
    losses = {name: value.item() for name, value in ion_losses(moved, ions).items()}
    assert losses.pop("place") == pytest.approx(3 * shift * 4.5, abs=1e-4)
    assert max(losses.values()) < 1e-4
    longer = Ions(ions.numbers, ions.places, ions.cells * 1.01)
    assert ion_losses(drawn, longer)["cell"].item() == pytest.approx(3 * np.log(1.01) * 4.5 * 1.01, rel=1e-2)


def test_errors_are_counted() -> None:
    """What chooses the weights: a wrong element costs its share of the ions, however sure the network is of it."""
    ions = Ions.of([PEROVSKITE, (np.array([3, 17]), SITES[:2], 5.0 * np.eye(3))], CPU)
    drawn = sure(ions, 6)
    assert ion_errors(drawn, ions).item() == pytest.approx(0, abs=1e-4)
    other = Ions(torch.where(ions.numbers == 22, 40, ions.numbers), ions.places, ions.cells)
    assert ion_errors(drawn, other).item() == pytest.approx(0.5 * 1 / 5, abs=1e-4)
    counts = drawn.counts.roll(-1, dims=1)
    assert ion_errors(replace(drawn, counts=counts), ions).item() == pytest.approx(1 + 0.5 * (1 / 5 + 1 / 2), abs=1e-4)
