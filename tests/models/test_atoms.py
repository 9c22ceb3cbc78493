"""Autoencoders of atoms and cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtal.data.batches import padded
from voxtal.data.dataset import AtomBatch
from voxtal.errors import UserError
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, atoms_loss, in_order
from voxtal.models.build import build, record, restore
from voxtal.training.checkpoint import load, save

coordinates = st.floats(-7, 7, width=32)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=1, max_size=5, unique=True), st.randoms())
def test_code_does_not_depend_on_the_order_of_atoms(atoms: list[tuple[float, float, float]], random: Any) -> None:
    """The same image from another file would have another code, and a generator could not learn either."""
    shuffled = random.sample(atoms, len(atoms))
    places = torch.zeros(2, 6, 3)
    places[0, : len(atoms)], places[1, : len(atoms)] = torch.tensor(atoms), torch.tensor(shuffled)
    places[1, len(atoms) :] = 3.0  # what lies beyond the atoms that there are is not looked at
    counts = torch.full((2,), len(atoms))
    ordered = in_order(places, counts)
    slabs = (ordered[:, : len(atoms)] / 0.2).round()
    assert torch.equal(slabs[0], slabs[1])
    if len(torch.unique(slabs[0], dim=0)) == len(atoms):
        codes = AtomsAutoencoder(6, 8, 4).encode(ordered, counts, torch.tensor([29, 29]))
        assert torch.allclose(codes[0], codes[1], atol=1e-6)


def test_loss_is_zero_for_what_is_right_only() -> None:
    """An atom beyond those that there are would pull, or a count too many go unpunished."""
    places, counts = torch.randn(3, 4, 3), torch.tensor([1, 4, 2])
    certain = 50.0 * torch.nn.functional.one_hot(counts, 5)
    elsewhere = places.clone()
    elsewhere[0, 1:], elsewhere[2, 2:] = 9.0, 9.0
    assert atoms_loss((elsewhere, certain), places, counts) < 1e-6
    wrong = places.clone()
    wrong[1, 3, 0] += 1
    assert atoms_loss((wrong, certain), places, counts) > 0.1
    assert atoms_loss((places, certain.roll(1, 1)), places, counts) > 1


def test_elements_are_known(tmp_path: Path) -> None:
    """One network for all elements would not tell them apart; or a best.pt is another network."""
    network = AtomsAutoencoder(4, 8, 3).eval()
    places, counts = torch.randn(2, 4, 3), torch.tensor([2, 3])
    codes = [network.encode(places, counts, torch.tensor([z, z])) for z in (3, 92)]
    assert not torch.allclose(*codes)
    sizes = {"atoms": 4, "width": 8, "latent": 3}
    save(tmp_path / "best.pt", record("atoms-sites-ae", sizes, network))
    again: Any = restore(load(tmp_path / "best.pt", ""))
    assert torch.equal(again.encode(places, counts, torch.tensor([3, 3])), codes[0])


def test_cells_keep_their_scale(tmp_path: Path) -> None:
    """A best.pt without the training cells' scale decodes to cells of one angstrom."""
    cells = torch.tensor(np.tril(np.random.default_rng(0).normal(size=(20, 3, 3)) + 5), dtype=torch.float32)
    sizes = {"width": 8, "latent": 3}
    network: Any = build("atoms-lattice-ae", **sizes)
    network.set_scale(cells)
    save(tmp_path / "best.pt", record("atoms-lattice-ae", sizes, network))
    again: Any = restore(load(tmp_path / "best.pt", ""))
    decoded = again.decode(again.encode(cells))
    assert decoded.shape == (20, 3, 3)
    assert not decoded.triu(1).any()
    assert torch.allclose(decoded, network.decode(network.encode(cells)))
    assert isinstance(again, CellAutoencoder)


def test_padded_atoms() -> None:
    """Atoms of one image in another's row; or too many of them cut off in silence."""
    batch = AtomBatch(np.array([0, 0, 2]), np.arange(9, dtype=np.float32).reshape(3, 3), 3)
    positions, counts = padded(batch, 2, 4.0)
    assert counts.tolist() == [2, 0, 1]
    assert positions[0].tolist() == [[-2, -1, 0], [1, 2, 3]]
    assert positions[2].tolist() == [[4, 5, 6], [0, 0, 0]]
    assert not positions[1].any()
    with pytest.raises(UserError, match=r"2 atoms of one element.*max_atoms"):
        padded(batch, 1, 4.0)


def test_how_far_atoms_are_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crystals that the autoencoder spoils would be generated from; padding is no atom."""
    network = AtomsAutoencoder(atoms=3, width=8, latent=4)
    positions, counts = torch.rand(2, 3, 3), torch.tensor([2, 3])
    found, logits = positions.clone(), torch.eye(4)[[2, 2]]
    found[0, 1, 0] += 0.25
    found[0, 2] += 9.0
    monkeypatch.setattr(network, "decode", lambda _codes, _numbers: (found, logits))
    moved = network.moved(positions, counts, torch.tensor([8, 8]))
    torch.testing.assert_close(moved, torch.tensor([0.25, torch.inf]))
