"""``voxtal encode`` on one round: voxels to codes in blocks, shared out to ranks, each written whole, then joined.

The codes of a block do not depend on the rank that makes it, so that ``graphs.h5`` is the same on any number of ranks.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voxtal.data.batches import densify, padded
from voxtal.data.dataset import VoxelDataset
from voxtal.data.graphs import GraphSet, joined
from voxtal.errors import UserError
from voxtal.models.atoms import AtomsAutoencoder, CellAutoencoder, in_order
from voxtal.models.build import restore
from voxtal.parallel.communicator import Communicator, SerialCommunicator, on_root
from voxtal.parallel.data_parallel import launch_of
from voxtal.parallel.tasks import advancing, gathered, shown
from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout
from voxtal.representations.ragged import offsets_of
from voxtal.runs import RoundPaths, Run, exclusive, sha256_of
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic, one_thread
from voxtal.training.separated import COMBINED, SEPARATED, by_network, own_elements, own_model
from voxtal.training.trainer import is_whole

BLOCK = 128
"""Structures of a file, which one rank encodes in one go: seconds of work, and what a kill loses at most."""

_AT_ONCE = 64

Progress = Callable[[str, int], AbstractContextManager[Callable[..., None]]]


def encode_graphs(
    run: Run, paths: RoundPaths, progress: Progress | None = None, communicator: Communicator | None = None
) -> bool:
    """Encode the round's voxels to ``graphs.h5`` with its autoencoders; False where that was done already.

    Collective: every rank calls it. A killed call keeps its finished blocks, and the same call carries on.

    Parameters
    ----------
    progress
        Shows on rank 0 how far it is.

    Raises
    ------
    UserError
        Voxels or an autoencoder are not there yet, or another process is encoding them.
    Interrupted
        A stop signal came; the same call carries on.
    """
    communicator = communicator or SerialCommunicator()
    with ExitStack() as stack:

        def begin() -> _Job | None:
            job = _job(run, paths)
            done = _fingerprint(paths.graphs) == job.fingerprint
            if not done:
                stack.enter_context(exclusive(job.folder, "voxtal encode"))
            _clear(job, done)
            return None if done else job

        job = on_root(communicator, begin)
        if job is None:
            return False
        blocks = job.blocks
        todo = on_root(communicator, lambda: [block for block in blocks if not job.has(block)])
        opened = cache(lambda: _Encoders.of(run, paths, job))

        def make(task: int) -> None:
            opened().graphs(todo[task]).write(job.path(todo[task]))

        sizes = list(map(len, todo))
        with shown(progress, "encode", sum(sizes), communicator) as advance, one_thread():
            gathered(communicator, len(todo), make, advancing(advance, sizes))

        def join() -> None:
            joined([GraphSet.read(job.path(block)) for block in blocks]).write(paths.graphs)
            _clear(job, done=True)

        on_root(communicator, join)
    return True


@dataclass(frozen=True)
class _Job:
    """What is encoded to what, and where: the same on every rank."""

    folder: Path
    layout: GraphLayout
    separated: tuple[int, ...]
    structures: int
    fingerprint: str

    @property
    def blocks(self) -> list[range]:
        n = self.structures
        return [range(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK)]

    def path(self, block: range) -> Path:
        return self.folder / "blocks" / f"block-{block.start:08d}-{len(block)}.h5"

    def has(self, block: range) -> bool:
        return _fingerprint(self.path(block)) == self.fingerprint


def _job(run: Run, paths: RoundPaths) -> _Job:
    files = [paths.train(name) / "best.pt" for name in ("lattice-ae", COMBINED)]
    lattice, sites = (load(file, f"voxtal train {file.parent.name}")["sizes"]["latent"] for file in files)
    dataset = VoxelDataset(paths.voxels, run.config.voxels)
    there = tuple(np.unique(dataset.image_numbers).tolist())
    separated = own_elements(run, paths)
    own = [paths.train(own_model(number)) for number in separated]
    if unfinished := [folder for folder in own if not is_whole(folder)]:
        raise UserError(
            f"{len(unfinished)} of {len(own)} elements have no sites autoencoder of their own yet, such as "
            f"{unfinished[0]}; make them with `voxtal train {SEPARATED}`."
        )
    hashes = [sha256_of(path) for path in (paths.voxels / "index.h5", *files, *(path / "best.pt" for path in own))]
    return _Job(
        paths.graphs.parent,
        GraphLayout(PAPER_ELEMENTS if run.config.preset == "paper" else there, lattice, sites),
        separated,
        dataset.n_structures,
        hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
    )


def _fingerprint(path: Path) -> str | None:
    """Of the graphs at ``path``; None where there are none that can be read."""
    try:
        return GraphSet.read(path, stop=0).fingerprint
    except UserError:
        return None


def _clear(job: _Job, done: bool) -> None:
    """Remove what killed runs left half-written, and the blocks where they have been joined."""
    for left in [*job.folder.glob(".graphs.h5.*.tmp"), *job.folder.glob("blocks/.*.tmp")]:
        left.unlink(missing_ok=True)
    if done:
        shutil.rmtree(job.folder / "blocks", ignore_errors=True)


@dataclass(frozen=True)
class _Encoders:
    """The round's voxels and its encoders, on this rank's device.

    ``own``: atomic number -> the encoder of its sites images, where that is not ``sites``.
    """

    job: _Job
    dataset: VoxelDataset
    lattice: Any
    sites: Any
    own: dict[int, Any]
    device: torch.device

    @classmethod
    def of(cls, run: Run, paths: RoundPaths, job: _Job) -> _Encoders:
        arithmetic = Arithmetic.of(run.config.train, launch_of(os.environ).local_rank)

        def network(name: str) -> Any:
            return arithmetic.place(restore(load(paths.train(name) / "best.pt", f"voxtal train {name}")))

        return cls(
            job,
            VoxelDataset(paths.voxels, run.config.voxels),
            network("lattice-ae"),
            network(COMBINED),
            {number: network(own_model(number)) for number in job.separated},
            arithmetic.device,
        )

    def graphs(self, block: range) -> GraphSet:
        """The crystal graphs of a block of structures."""
        first, last = np.searchsorted(self.dataset.image_structure, [block.start, block.stop])
        counts = np.bincount(self.dataset.image_structure[first:last] - block.start, minlength=len(block))
        sites = self._sites_codes(np.arange(first, last))
        return GraphSet(
            self.job.layout,
            self.dataset.rows[block.start : block.stop],
            self._lattice_codes(np.arange(block.start, block.stop)),
            offsets_of(counts),
            self.dataset.image_numbers[first:last],
            sites,
            float(np.sqrt(np.mean(sites**2, axis=1)).min() / 2),
            self.job.separated,
            self.job.fingerprint,
        )

    def _lattice_codes(self, rows: np.ndarray) -> np.ndarray:
        def encode(some: np.ndarray) -> Tensor:
            if isinstance(self.lattice, CellAutoencoder):
                return self.lattice.encode(torch.from_numpy(self.dataset.cells(some)).to(self.device))
            return self.lattice.encode(densify(self.dataset.lattice_sparse(some), self.device, torch.float32))

        return _in_batches(encode, rows)

    def _sites_codes(self, rows: np.ndarray) -> np.ndarray:
        codes = np.empty((len(rows), self.job.layout.sites_latent), dtype=np.float32)
        for number, places in by_network(self.dataset.image_numbers[rows], self.own):
            network = self.own.get(number, self.sites)
            codes[places] = _in_batches(partial(self._encode, network), rows[places])
        return codes

    def _encode(self, network: Any, rows: np.ndarray) -> Tensor:
        if isinstance(network, AtomsAutoencoder):
            return _encode_atoms(network, self.dataset, rows, self.device)
        return network.encode(densify(self.dataset.sites_sparse(rows), self.device, torch.float32))


def _encode_atoms(network: AtomsAutoencoder, dataset: VoxelDataset, rows: np.ndarray, device: torch.device) -> Tensor:
    """UserError where an image has more atoms than the network knows."""
    positions, counts = padded(dataset.atoms(rows), network.atoms, dataset.settings.box_angstrom)
    there = torch.from_numpy(counts).to(device)
    ordered = in_order(torch.from_numpy(positions).to(device), there)
    numbers = torch.from_numpy(dataset.image_numbers[rows].astype(np.int64)).to(device)
    return network.encode(ordered, there, numbers)


@torch.no_grad()
def _in_batches(encode: Callable[[np.ndarray], Tensor], rows: np.ndarray) -> np.ndarray:
    """Codes (n, latent) of ``rows`` (n,)."""
    parts = (rows[first : first + _AT_ONCE] for first in range(0, len(rows), _AT_ONCE))
    return np.concatenate([encode(some).float().cpu().numpy() for some in parts])
