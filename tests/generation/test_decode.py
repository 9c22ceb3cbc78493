"""Graphs to structures, through decoders that return the voxels that real structures have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import VoxelsConfig, build_config
from voxtal.generation.codes import codes_of_graphs
from voxtal.generation.decode import Decoded, Decoder
from voxtal.generation.readers import _Images, _VoxelCells, _VoxelSites
from voxtal.generation.request import Request
from voxtal.representations.crystal_graph import GraphLayout
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.sites import SitesGrid
from voxtal.representations.voxels import dense, encode_structure
from voxtal.structures.matching import Matcher
from voxtal.training.device import Arithmetic

CPU = Arithmetic(torch.device("cpu"), "float32")
LAYOUT = GraphLayout((29, 79, 92), lattice_latent=4, sites_latent=4)


class Album:
    """Stands in for a trained autoencoder: the code of image i is i + 1 in its first place."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = np.stack([np.zeros_like(images[0]), *images])
        self.decoded = 0

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        self.decoded += int((codes != 0).any(dim=1).sum())
        return torch.from_numpy(self.images[codes[:, 0].round().long().numpy()])[:, None]


@pytest.fixture(scope="module")
def voxels() -> VoxelsConfig:
    return build_config({"voxels": {"sites_sigma_angstrom": 0.5, "lattice_sigma_angstrom": 0.5}}).voxels


def decoder_and_graphs(structures: Sequence[Any], voxels: VoxelsConfig) -> tuple[Decoder, np.ndarray]:
    """The decoder that knows ``structures``, and their graphs."""
    lattices, sites = [], []
    lattice_codes = np.zeros((len(structures), 4), dtype=np.float32)
    sites_codes = np.zeros((len(structures), len(LAYOUT.elements), 4), dtype=np.float32)
    for i, structure in enumerate(structures):
        encoded = encode_structure(
            np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix, voxels
        )
        lattices.append(dense(encoded.lattice_index, encoded.lattice_values, voxels.lattice_grid))
        lattice_codes[i, 0] = len(lattices)
        for j, z in enumerate(encoded.elements.tolist()):
            image = slice(encoded.sites_offsets[j], encoded.sites_offsets[j + 1])
            sites.append(dense(encoded.sites_index[image], encoded.sites_values[image], voxels.sites_grid))
            sites_codes[i, LAYOUT.elements.index(z), 0] = len(sites)
    decoder = Decoder(
        LAYOUT,
        _VoxelCells(_Images(Album(lattices), CPU), LatticeGrid.of(voxels)),  # type: ignore[arg-type]
        _VoxelSites(_Images(Album(sites), CPU), SitesGrid.of(voxels)),  # type: ignore[arg-type]
        presence_threshold=0.25,
    )
    return decoder, LAYOUT.pack(lattice_codes, sites_codes)


def as_structure(decoded: Decoded) -> Any:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(decoded.cell), decoded.numbers.tolist(), decoded.frac_coords)


def test_every_structure_comes_back(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """Sites of another graph, a cell in another orientation than its sites, an element in another's place."""
    decoder, graphs = decoder_and_graphs(copper_gold, voxels)
    decoded = decoder.decode(graphs)
    assert [d.reason for d in decoded] == [""] * len(copper_gold)
    matcher = Matcher()
    for original, again in zip(copper_gold, decoded, strict=True):
        assert matcher.matches(original, as_structure(again)), original
        assert abs(np.linalg.det(again.cell)) == pytest.approx(original.volume, rel=1e-3)


def test_more_graphs_than_are_decoded_at_once(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """A batch boundary that shifts cells against sites."""
    decoder, graphs = decoder_and_graphs(copper_gold, voxels)
    once = decoder.decode(graphs)
    again = decoder.decode(np.concatenate([graphs] * 4))
    for i, decoded in enumerate(again):
        assert np.array_equal(decoded.frac_coords, once[i % len(once)].frac_coords)
        assert np.array_equal(decoded.cell, once[i % len(once)].cell)


def test_no_graphs_are_no_structures(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """A round without anything to decode."""
    decoder, graphs = decoder_and_graphs(copper_gold[:1], voxels)
    assert decoder.decode(graphs[:0]) == []


def test_weak_codes_are_absent_elements(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """A generator leaves small numbers where an element is absent; they must not become atoms."""
    decoder, graphs = decoder_and_graphs(copper_gold[-1:], voxels)
    lattice_codes, sites_codes = (codes.copy() for codes in LAYOUT.unpack(graphs))
    sites_codes[0, 2] = 0.24
    (decoded,) = decoder.decode(LAYOUT.pack(lattice_codes, sites_codes))
    assert sorted(set(decoded.numbers.tolist())) == [29, 79]


def test_more_atoms_than_asked_for(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """``--max-atoms 3``: the attempt counts, but not as a valid one."""
    decoder, graphs = decoder_and_graphs([copper_gold[-1], copper_gold[-3]], voxels)
    codes = codes_of_graphs(graphs, LAYOUT, 0.25)
    assert [d.reason for d in decoder.decode_codes(codes, max_atoms=3)] == ["", "more than 3 atoms"]
    assert [d.reason for d in decoder.decode_codes(codes, max_atoms=4)] == ["", ""]


def test_sites_of_a_graph_without_a_cell_are_not_decoded(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """Most attempts of a weak generator have no cell: decoding their sites would be most of the time."""
    decoder, graphs = decoder_and_graphs(copper_gold[:5], voxels)
    graphs[1:, 0, 0] = 0
    decoder.decode(graphs)
    assert decoder.sites.images.network.decoded == len(set(copper_gold[0].atomic_numbers))  # type: ignore[attr-defined]


def test_graph_without_a_cell(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """An empty lattice image is a recorded failure, and its neighbour is decoded all the same."""
    decoder, graphs = decoder_and_graphs(copper_gold[:2], voxels)
    graphs[0, 0, 0] = 0
    nothing, something = decoder.decode(graphs)
    assert nothing.reason == "no cell: nothing in the middle of the lattice voxel"
    assert (len(nothing.numbers), nothing.cell.tolist()) == (0, np.zeros((3, 3)).tolist())
    assert something.reason == ""


def test_graph_without_sites(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """No element present, or present ones whose images are empty."""
    decoder, graphs = decoder_and_graphs(copper_gold[:1], voxels)
    assert replace(decoder, presence_threshold=10.0).decode(graphs)[0].reason == "no elements"
    uranium = codes_of_graphs(graphs, LAYOUT, 0.25, Request(system=("U",)))
    assert decoder.decode_codes(uranium)[0].reason == "no sites"


def test_image_that_is_no_sum_of_atoms(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """The reason says what was wrong with it, and its neighbour is decoded all the same."""
    decoder, graphs = decoder_and_graphs(copper_gold[:2], voxels)
    decoder.sites.images.network.images[1] = 1.0  # type: ignore[operator, index]
    full, something = decoder.decode(graphs)
    assert full.reason == "more than 64 atoms' worth of density in one sites voxel"
    assert len(full.numbers) == 0
    assert something.reason == ""


def test_atoms_on_top_of_each_other(copper_gold: list[Any], voxels: VoxelsConfig) -> None:
    """Copper's image in gold's place as well: atoms at the same points."""
    decoder, graphs = decoder_and_graphs(copper_gold[-1:], voxels)
    lattice_codes, sites_codes = (codes.copy() for codes in LAYOUT.unpack(graphs))
    sites_codes[0, 1] = sites_codes[0, 0]
    (decoded,) = decoder.decode(LAYOUT.pack(lattice_codes, sites_codes))
    assert decoded.reason == "atoms closer than 0.5 A"
    assert decoded.numbers.tolist() == [29, 79]
    assert np.allclose(decoded.frac_coords[0], decoded.frac_coords[1])
