"""How fast `voxtal generate` is, by stage, on one rank and two, beside one graph at a time decoded as published.

    python benchmarks/generation.py RUN [--attempts 1024] [--naive 32]

RUN is a run directory with trained models. Three tables:

1. The command itself on RUN, start of Python included, with one rank and with two. Naive: one graph, then one image at
   a time through the networks as they were trained; integer peaks, one voxel per edge of the cell. It neither starts
   nor writes anything.
2. CPU time of the stages of RUN's attempts on one rank.
3. What the full sizes of both presets would take, 89 elements: networks with random weights, whose time does not
   depend on what they have learned, and (autoencoders of voxels) fits to the voxels of RUN's structures with noise
   (0.05), as trained networks leave it. An attempt is counted as a structure that is decoded to its end, with as many
   elements as RUN's structures have on average; attempts without a cell or an element take less.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding import published_cell, published_sites

from voxtal.cli.common import print_table
from voxtal.config import Config, VoxelsConfig, build_config, load_config
from voxtal.generation import decode
from voxtal.generation.batches import batched
from voxtal.generation.codes import codes_of_graphs
from voxtal.generation.folder import BLOCK
from voxtal.generation.readers import cell_reader, sites_reader
from voxtal.generation.request import Request
from voxtal.generation.sampling import predicted, sample_graphs
from voxtal.generation.stage import open_decoder, open_generator
from voxtal.models.build import build, restore
from voxtal.models.decoding import quick_decoder
from voxtal.parallel.launch import local_environment, mpirun
from voxtal.representations.assembly import assemble
from voxtal.representations.crystal_graph import PAPER_ELEMENTS, GraphLayout
from voxtal.representations.lattice import LatticeGrid
from voxtal.representations.lattice_decoding import decode_lattice
from voxtal.representations.reasons import Undecodable, Unencodable
from voxtal.representations.sites import SitesGrid
from voxtal.representations.sites_decoding import decode_sites
from voxtal.representations.voxels import dense, encode_structure
from voxtal.runs import RoundPaths, Run
from voxtal.structures.structure_set import StructureSet
from voxtal.structures.validity import why_invalid
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic, one_thread

CPU = torch.device("cpu")
NOISE = 0.05


def command_seconds(run: Run, paths: RoundPaths, ranks: int, attempts: int) -> tuple[float, StructureSet]:
    """Wall time of `voxtal generate` on some ranks, and what it made, which is removed again."""
    name = f"benchmark-{ranks}"
    folder = paths.candidates.parent / name
    shutil.rmtree(folder, ignore_errors=True)
    launcher = [mpirun() or "mpirun", "-n", str(ranks)] if ranks > 1 else []
    program = [sys.executable, "-c", "from voxtal.cli.main import main; main()", "generate"]
    options = ["-n", str(attempts), "--name", name, "--run", str(run.root), "--round", str(paths.index)]
    began = time.monotonic()
    subprocess.run([*launcher, *program, *options], env=local_environment(), stdout=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - began
    made = StructureSet.read(folder / "candidates.h5")
    shutil.rmtree(folder)
    return seconds, made


def naive_seconds(run: Run, paths: RoundPaths, attempts: int) -> float:
    """Wall time of attempts made one at a time."""
    decoder = open_decoder(run, paths)
    if run.config.train.sites_ae.network != "voxels" or run.config.train.lattice_ae.network != "voxels":
        sys.exit('The naive way needs autoencoders of voxels: train RUN with network = "voxels" for both.')
    lattice, sites, generator = (
        restore(load(paths.train(name) / "best.pt", "")) for name in ("lattice-ae", "sites-ae", "ccdcgan")
    )
    cell_grid, sites_grid = LatticeGrid.of(run.config.voxels), SitesGrid.of(run.config.voxels)
    began = time.monotonic()
    for attempt in range(attempts):
        graph = sample_graphs(generator, run.config.seed + paths.index, np.array([attempt]), CPU)
        codes = codes_of_graphs(graph, decoder.layout, decoder.presence_threshold)
        positions = {
            int(z): published_sites(one_image(sites, code), sites_grid)
            for z, code in zip(codes.numbers, codes.sites, strict=True)
        }
        with suppress(Undecodable, np.linalg.LinAlgError):
            cell = published_cell(one_image(lattice, codes.lattice[0]), cell_grid)
            why_invalid(*assemble(cell, positions))
    return time.monotonic() - began


@torch.no_grad()
def one_image(network: Any, code: np.ndarray) -> np.ndarray:
    return network.decode(torch.from_numpy(code[None]))[0, 0].numpy()


class Clock:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds[stage] += time.process_time() - began

        return call


class TimedReader:
    """A reader of codes whose time counts for a stage."""

    def __init__(self, reader: Any, clock: Clock, stage: str) -> None:
        self.read = clock.timed(stage, lambda *arguments: list(reader.read(*arguments)))


@contextmanager
def validity_timed(clock: Clock) -> Iterator[None]:
    before = decode._assembled
    decode._assembled = clock.timed("validity", before)
    try:
        yield
    finally:
        decode._assembled = before


def stage_seconds(run: Run, paths: RoundPaths, attempts: int) -> dict[str, float]:
    """CPU seconds of each stage of the first ``attempts``."""
    decoder, generator, clock = open_decoder(run, paths), open_generator(run, paths, Request()), Clock()
    draw = clock.timed("generator and constraints", generator.draw)
    decoder = replace(
        decoder,
        lattice=TimedReader(decoder.lattice, clock, "cell"),
        sites=TimedReader(decoder.sites, clock, "sites"),
    )
    with one_thread(), validity_timed(clock):
        for first in range(0, attempts, BLOCK):
            decoder.decode_codes(draw(np.arange(first, min(first + BLOCK, attempts))).codes)
    return dict(clock.seconds)


def full_size_seconds(preset: str, structures: StructureSet, elements: tuple[int, ...]) -> dict[str, float]:
    """CPU seconds an attempt of each stage at the preset's full size."""
    config = build_config({"preset": preset, "train": {"precision": "float32", "device": "cpu"}})
    train, arithmetic = config.train, Arithmetic(CPU, "float32")
    layout = GraphLayout(
        PAPER_ELEMENTS if preset == "paper" else elements, train.lattice_ae.latent, train.sites_ae.latent
    )
    generator = build(f"{preset}-generator", side=layout.side, width=train.ccdcgan.width, noise=train.ccdcgan.noise)
    constraint_sizes: dict[str, Any] = {"side": layout.side}
    if preset != "paper":
        constraint_sizes = {"elements": list(layout.elements), "threshold": 0.1, "width": train.constraint.width}
        constraint_sizes |= {"lattice_latent": layout.lattice_latent, "sites_latent": layout.sites_latent}
    constraint = arithmetic.place(build(f"{preset}-constraint", **constraint_sizes).eval())
    generator = arithmetic.place(generator.eval())
    fits, images = fit_seconds(structures, config.voxels)
    if train.sites_ae.network == "atoms":
        fits = {stage: seconds for stage, seconds in fits.items() if stage == "validity"}

    def draw() -> None:
        predicted({"formation_energy": constraint}, sample_graphs(generator, 0, np.arange(BLOCK), CPU), CPU)

    rng = np.random.default_rng(0)
    lattice, sites = (untrained(preset, name, config) for name in ("lattice", "sites"))
    cells = rng.uniform(-1, 1, (256, train.lattice_ae.latent)).astype(np.float32)
    codes = rng.uniform(-1, 1, (256, train.sites_ae.latent)).astype(np.float32)
    return {
        "generator and constraints": cpu_seconds(draw) / BLOCK,
        "lattice network": cpu_seconds(lambda: lattice(cells)) / len(cells),
        "sites network": cpu_seconds(lambda: sites(codes)) / len(codes) * images,
        **fits,
    }


def untrained(preset: str, name: str, config: Config) -> Callable[[np.ndarray], Any]:
    """What decodes codes (n, latent) with a network of random weights, without any fit."""
    size = getattr(config.train, f"{name}_ae")
    sizes = {"width": size.width, "latent": size.latent}
    if size.network == "voxels":
        sizes["grid"] = getattr(config.voxels, f"{name}_grid")
        network: Any = quick_decoder(build(f"{preset}-{name}-ae", **sizes).eval())  # type: ignore[arg-type]
        return lambda codes: list(batched(network.decode, codes, 32, CPU))
    if name == "lattice":
        cells = cell_reader(build("atoms-lattice-ae", **sizes).eval(), config.voxels, Arithmetic(CPU, "float32"))
        return lambda codes: list(cells.read(codes))
    network = build("atoms-sites-ae", atoms=config.structures.max_atoms, **sizes).eval()
    sites = sites_reader(network, config.voxels, Arithmetic(CPU, "float32"))
    return lambda codes: list(sites.read(codes, np.full(len(codes), 26)))


def fit_seconds(structures: StructureSet, voxels: VoxelsConfig) -> tuple[dict[str, float], float]:
    """CPU seconds a structure of the fits to noisy voxels and of validity; and images a structure."""
    clock, rng, images, done = Clock(), np.random.default_rng(0), 0, 0
    cell_fit = clock.timed("fit of the cell", decode_lattice)
    sites_fit, validity = clock.timed("fit of the sites", decode_sites), clock.timed("validity", why_invalid)

    def noisy(index: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
        image = dense(index, values, size)
        return np.maximum(image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(NOISE), 0)

    for row in np.unique(np.linspace(0, len(structures) - 1, 200).astype(int)).tolist():
        with suppress(Unencodable):
            encoded = encode_structure(*structures.arrays(row), voxels)
            done += 1
            images += len(encoded.elements)
            with suppress(Undecodable):
                cell_fit(
                    noisy(encoded.lattice_index, encoded.lattice_values, voxels.lattice_grid), LatticeGrid.of(voxels)
                )
                for j in range(len(encoded.elements)):
                    part = slice(encoded.sites_offsets[j], encoded.sites_offsets[j + 1])
                    image = noisy(encoded.sites_index[part], encoded.sites_values[part], voxels.sites_grid)
                    sites_fit(image, SitesGrid.of(voxels))
                validity(*structures.arrays(row))
    return {stage: seconds / done for stage, seconds in clock.seconds.items()}, images / done


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of the second call."""
    with one_thread():
        work()
        began = time.process_time()
        work()
        return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--attempts", type=int, default=1024)
    parser.add_argument("--naive", type=int, default=32)
    options = parser.parse_args()
    run = Run(options.run, load_config(options.run / "voxtal.toml"))
    paths, n = run.latest_round(), options.attempts
    structures = StructureSet.read(paths.structures)

    rows: list[tuple[str, int, float, float]] = []
    with one_thread():
        rows.append(
            ("naive", options.naive, seconds := naive_seconds(run, paths, options.naive), options.naive / seconds)
        )
    valid = 0
    for ranks in (1, 2):
        seconds, made = command_seconds(run, paths, ranks, n)
        valid = int(np.sum(made.provenance["reason"] == ""))
        rows.append((f"voxtal generate, {ranks} rank{'s' * (ranks > 1)}", n, seconds, n / seconds))
    print_table(f"{run.root}: {valid} of {n} attempts valid", ("", "attempts", "wall s", "attempts/s"), rows)

    stages = stage_seconds(run, paths, n)
    total = sum(stages.values())
    shares = [(stage, 1e3 * s / n, f"{s / total:.0%}") for stage, s in [*stages.items(), ("together", total)]]
    print_table("CPU time of an attempt, one rank", ("stage", "ms", "share"), shares)

    elements = tuple(range(1, 90))
    sizes = {preset: full_size_seconds(preset, structures, elements) for preset in ("laptop", "paper")}
    full = [(stage, *(1e3 * sizes[preset][stage] for preset in sizes)) for stage in sizes["laptop"]]
    totals = [sum(column.values()) for column in sizes.values()]
    full += [("together", *(1e3 * s for s in totals)), ("attempts/s of a rank", *(1 / s for s in totals))]
    full.append(("minutes for 50,000 on two ranks", *(25_000 * s / 60 for s in totals)))
    print_table("Full sizes, CPU ms of an attempt", ("stage", *sizes), full)


if __name__ == "__main__":
    main()
