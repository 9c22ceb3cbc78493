"""CGCNN: the published equations, and what must not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from voxtal.models.atom_graphs import atom_graphs
from voxtal.models.build import build
from voxtal.models.cgcnn import BEYOND, predict, published_features
from voxtal.structures.structure_set import StructureSet


def packed(*structures: Any) -> StructureSet:
    return StructureSet.from_structures(structures, [str(i) for i in range(len(structures))])


def network(architecture: str, **sizes: int) -> Any:
    torch.manual_seed(0)
    return build(architecture, **({"width": 16, "layers": 2} | sizes)).eval()


@pytest.fixture(scope="module")
def caesium_chloride() -> Any:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@torch.no_grad()
def test_published_network_against_a_loop(caesium_chloride: Any) -> None:
    """Eqs. 8 to 10, one atom and one neighbour after the other, with the neighbours of pymatgen."""
    ours = network("paper-cgcnn", layers=1)
    body, convolution = ours.body, ours.body.convolutions[0]
    torch.nn.init.normal_(convolution.bias)
    parts = (convolution.centre, convolution.other, convolution.edge)
    w, w_s = (torch.cat([part.weight[rows] for part in parts], dim=1) for rows in (slice(0, 16), slice(16, 32)))
    atoms = [body.linear(body.table[site.specie.Z]) for site in caesium_chloride]
    convolved = []
    for v_i, near in zip(atoms, caesium_chloride.get_all_neighbors(8.0), strict=True):
        total = v_i.clone()
        for neighbour in sorted(near, key=lambda n: round(n.nn_distance, 3))[:12]:
            e_ij = torch.exp(-((neighbour.nn_distance - torch.arange(0, 8.1, 0.2)) ** 2) / 0.2**2)
            z = torch.cat([v_i, atoms[neighbour.index], e_ij])
            total += torch.sigmoid(w @ z + convolution.bias) * F.softplus(w_s @ z)
        convolved.append(total)
    h = torch.stack(convolved).mean(0)
    first, last = ours.head.dense[1], ours.head.dense[3]
    expected = last(F.softplus(first(F.softplus(h))))
    found = ours(atom_graphs(packed(caesium_chloride), BEYOND["paper-cgcnn"], "cpu").batch(torch.tensor([0])))
    assert float(found) == pytest.approx(float(expected), abs=1e-5)
    assert body.expansion.features == 41


@pytest.mark.parametrize("preset", ["paper", "laptop"])
def test_batches_do_not_matter(real_set: StructureSet, preset: str) -> None:
    """A crystal's property would depend on which others are predicted with it; also of one without neighbours."""
    from pymatgen.core import Lattice, Structure

    lonely = packed(Structure(Lattice.cubic(9.0), ["He"], [[0, 0, 0]]))
    some = StructureSet.concatenate([lonely, real_set.subset(range(0, len(real_set), 20))])
    ours = network(f"{preset}-cgcnn")
    together = predict(ours, atom_graphs(some, BEYOND[f"{preset}-cgcnn"], "cpu"), torch.arange(len(some)))
    alone = [
        predict(ours, atom_graphs(some.subset([i]), BEYOND[f"{preset}-cgcnn"], "cpu"), torch.tensor([0]))
        for i in range(len(some))
    ]
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", [[1, 1, 1], [2, 1, 1], [[1, 1, 0], [0, 1, 0], [-1, 2, 1]]])
def test_cell_and_order_do_not_matter(real_set: StructureSet, scale: Any) -> None:
    """The preset laptop's property of a crystal, in another cell, of other atoms first and from another origin."""
    rng = np.random.default_rng(0)
    structures = [real_set.structure(i) for i in range(0, len(real_set), 15)]
    others = []
    for structure in structures:
        other = structure.copy() * np.array(scale)
        other.translate_sites(range(len(other)), rng.random(3))
        sites = list(other)
        others.append(type(other).from_sites([sites[i] for i in rng.permutation(len(sites))]))
    ours = network("laptop-cgcnn")
    rows = torch.arange(len(structures))
    one, same = (
        predict(ours, atom_graphs(packed(*some), BEYOND["laptop-cgcnn"], "cpu"), rows) for some in (structures, others)
    )
    torch.testing.assert_close(one, same, atol=2e-5, rtol=1e-5)
    assert one.std() > 0.01


def test_second_output_says_zero_or_not(caesium_chloride: Any) -> None:
    """A metal's band gap: exactly zero where the network says that there is none."""
    ours = network("laptop-cgcnn", outputs=2)
    ours.set_scale(torch.tensor([2.0, 4.0]))
    graph = atom_graphs(packed(caesium_chloride), 1.1, "cpu").batch(torch.tensor([0]))
    with torch.no_grad():
        for bias, zero in ((-100.0, True), (100.0, False)):
            ours.head.crystal[-1].bias[1] = bias
            assert (float(ours(graph)) == 0) == zero


def test_features_tell_the_elements_apart() -> None:
    """Two elements alike would be one to the published network: only Dy to Er are, and Fm and Md."""
    table = published_features()
    assert table.shape == (119, 93)
    known = {tuple(row.tolist()) for row in table[1:104]}
    assert len(known) == 100
    assert table[26].nonzero().flatten().tolist() == [7, 18 + 3, 27 + 3, 37 + 4, 47 + 7, 59 + 3, 69 + 4, 79 + 2, 83 + 1]
