"""Which autoencoder learns a round's voxels fastest: the published way, and what changes it for the better.

    python benchmarks/autoencoders.py RUN [--seconds 60]

RUN is a run directory whose round 0 is voxelized (the quickstart's will do). Every variant trains for the same
time on the same images, of which none is held out, with all cores. "Right": the image decodes to the same
number of atoms, each within 0.3 A; for cells: within the strict matcher's 5 degrees, and the error of the worst
angle.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from voxtal.cli.common import open_run, print_table
from voxtal.data.batches import densify
from voxtal.data.dataset import VoxelDataset
from voxtal.models.autoencoder import (
    VoxelAutoencoder,
    fast_autoencoder,
    paper_lattice_autoencoder,
    paper_sites_autoencoder,
)
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.placement import cell_parameters
from voxtal.representations.reasons import Undecodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.sites_decoding import decode_sites
from voxtal.training.losses import squared_error, weighted_cross_entropy

RATE = {"published": 1e-4, "ours": 3e-3}
BATCH = 32
SCORED = 120
"""At most so many images, evenly spaced, are decoded."""


def with_batch_norm(network: nn.Module) -> nn.Module:
    """The same network with batch norm where it has group or layer norm."""
    for name, child in network.named_children():
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, nn.BatchNorm3d(child.num_channels))
        elif isinstance(child, nn.LayerNorm):
            setattr(network, name, nn.BatchNorm1d(child.normalized_shape[0]))
        else:
            with_batch_norm(child)
    return network


def train_for(network: VoxelAutoencoder, images: torch.Tensor, loss: Callable, rate: float, seconds: float) -> int:
    """Adam with a rate that falls to zero over ``seconds``; returns the steps done."""
    network.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    rng = np.random.default_rng(0)
    began, steps = time.monotonic(), 0
    while (share := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (steps + 1) / 30) * 0.5 * (1 + np.cos(np.pi * share))
        batch = images[rng.permutation(len(images))[:BATCH]].contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(network(batch), batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        steps += 1
    return steps


@torch.no_grad()
def reconstructed(network: VoxelAutoencoder, images: torch.Tensor) -> np.ndarray:
    network.eval()
    return torch.cat([network.decode(network.encode(part)) for part in images.split(64)]).numpy()[:, 0]


def sites_right(network: VoxelAutoencoder, images: torch.Tensor, grid: SitesGrid) -> str:
    right = 0
    for original, image in zip(images.numpy()[:, 0], reconstructed(network, images), strict=True):
        expected = decode_sites(original, grid)[0]
        try:
            found = decode_sites(image, grid)[0]
        except Undecodable:
            continue
        if len(found) == len(expected):
            distances = np.linalg.norm(found[:, None] - expected[None], axis=-1)
            right += bool(max(distances.min(0).max(), distances.min(1).max()) < 0.3)
    return f"{right / len(images):.1%} of {len(images)}"


def cells_right(network: VoxelAutoencoder, images: torch.Tensor, grid: LatticeGrid) -> str:
    errors = []
    for original, image in zip(images.numpy()[:, 0], reconstructed(network, images), strict=True):
        try:
            angles = cell_parameters(decode_lattice(image, grid))[1]
        except Undecodable:
            angles = np.full(3, np.inf)
        errors.append(np.abs(angles - cell_parameters(decode_lattice(original, grid))[1]).max())
    return f"{np.mean(np.array(errors) < 5):.1%} of {len(images)}, median {np.median(errors):.2f} degrees"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    config = open_run(arguments.run).config
    dataset = VoxelDataset(arguments.run / "round-000" / "voxels", config.voxels)
    kinds = {
        "sites": (dataset.sites_sparse, dataset.n_images, SitesGrid.of(config.voxels), sites_right),
        "lattice": (dataset.lattice_sparse, dataset.n_structures, LatticeGrid.of(config.voxels), cells_right),
    }
    published = {"sites": paper_sites_autoencoder, "lattice": paper_lattice_autoencoder}
    torch.manual_seed(0)
    rows = []
    for kind, (read, n, grid, score) in kinds.items():
        images = densify(read(np.arange(n)), "cpu", torch.float32)
        size = config.train.sites_ae if kind == "sites" else config.train.lattice_ae
        sizes = grid.size, {"sites": 32, "lattice": 16}[kind], size.latent
        old, new = published[kind](grid.size, 64, size.latent), fast_autoencoder(*sizes)
        variants = [
            ("published: no norm, squared error", old, squared_error, RATE["published"]),
            ("batch norm, squared error", with_batch_norm(fast_autoencoder(*sizes)), squared_error, RATE["ours"]),
            (
                "batch norm, weighted cross-entropy",
                with_batch_norm(fast_autoencoder(*sizes)),
                weighted_cross_entropy,
                RATE["ours"],
            ),
            ("group norm, weighted cross-entropy", new, weighted_cross_entropy, RATE["ours"]),
        ]
        for name, network, loss, rate in variants:
            steps = train_for(network, images, loss, rate, arguments.seconds)  # type: ignore[arg-type]
            scored = images[:: -(-len(images) // SCORED)]
            rows.append((kind, name, f"{steps * BATCH / arguments.seconds:.0f}", score(network, scored, grid)))  # type: ignore[arg-type, operator]
            print(*rows[-1], sep="  ", flush=True)
    print_table(
        f"Autoencoders after {arguments.seconds:.0f} s each, {torch.get_num_threads()} threads",
        ("images", "variant", "images/s", "right"),
        rows,
    )


if __name__ == "__main__":
    main()
