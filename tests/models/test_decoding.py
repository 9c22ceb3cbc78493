"""Networks made quick to decode with give the images that they were trained to give."""

from __future__ import annotations

import pytest
import torch

from voxtal.models.build import build
from voxtal.models.decoding import OneChannelUp, quick_decoder


@pytest.mark.parametrize("architecture", ["laptop-sites-ae", "paper-sites-ae", "laptop-lattice-ae", "paper-lattice-ae"])
def test_same_images(architecture: str) -> None:
    """Atoms in other places than the network puts them, or an image shifted by a voxel."""
    torch.manual_seed(0)
    network = build(architecture, grid=16, width=4, latent=5).eval()
    codes = torch.rand(3, 5) * 8 - 4
    with torch.no_grad():
        expected, quick = network.decode(codes), quick_decoder(network).decode(codes)
    assert quick.shape == expected.shape == (3, 1, 16, 16, 16)
    assert expected.std() > 1e-3
    assert torch.allclose(quick, expected, atol=1e-6)


def test_every_tap_goes_to_its_place() -> None:
    """An image that is right inside and wrong at its faces."""
    torch.manual_seed(1)
    layer = torch.nn.ConvTranspose3d(3, 1, 4, 2, 1)
    x = torch.randn(2, 3, 4, 5, 3).to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        assert torch.allclose(OneChannelUp(layer)(x), layer(x), atol=1e-5)
