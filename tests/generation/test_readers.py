"""Readers of codes where elements have sites autoencoders of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from voxtal.config import build_config
from voxtal.generation.readers import sites_reader
from voxtal.models.build import build
from voxtal.training.device import Arithmetic

SIZES = {
    "laptop-sites-ae": {"grid": 16, "width": 4, "latent": 8},
    "atoms-sites-ae": {"atoms": 4, "width": 8, "latent": 8},
}


@pytest.mark.parametrize("architecture", SIZES)
def test_every_code_is_read_by_its_elements_network(architecture: str, tiny: dict[str, Any]) -> None:
    """Atoms of one element in another's place, or of its code in another's; a batch holds four of an element."""
    voxels, arithmetic = build_config(tiny).voxels, Arithmetic(torch.device("cpu"), "float32")
    torch.manual_seed(0)
    combined, gold = (build(architecture, **SIZES[architecture]).eval() for _ in range(2))
    with torch.no_grad():  # images from fresh convolutions hold nothing; gold's are to hold far too much
        list(gold.decoder.parameters())[-1].add_(20.0)
    codes = np.random.default_rng(0).uniform(-1, 1, (14, 8)).astype(np.float32)
    numbers = np.array([79, 29, 79, 8, 79, 79, 29, 79, 79, 79, 8, 79, 79, 79], dtype=np.uint8)
    by_both = list(sites_reader(combined, voxels, arithmetic, {79: gold, 47: combined}).read(codes, numbers))
    wanted = {
        network: list(sites_reader(network, voxels, arithmetic).read(codes, numbers)) for network in (combined, gold)
    }
    assert len(by_both) == len(codes)
    assert str(wanted[combined][0]) != str(wanted[gold][0])
    for i, found in enumerate(by_both):
        expected = wanted[gold if numbers[i] == 79 else combined][i]
        if isinstance(expected, Exception):
            assert str(found) == str(expected)
        else:
            assert np.allclose(found, expected, atol=1e-3)
