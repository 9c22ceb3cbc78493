"""Fixtures that all tests share."""

from __future__ import annotations

import copy
import csv
import gzip
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is there, as voxtal itself has it (cli/ranks.py)

import numpy as np
import pytest
from hypothesis import settings

from voxtal.config import build_config, write_config
from voxtal.runs import Run
from voxtal.structures.cif import parse_cif
from voxtal.structures.structure_set import StructureSet

# The same examples for one commit: a landing does not fail by luck. Others are found with --hypothesis-profile=search.
settings.register_profile("search", deadline=None, max_examples=50, derandomize=False)
settings.register_profile("voxtal", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("voxtal")


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder that holds setup.cfg."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(project_root: Path) -> Path:
    """The folder of real structures beside the project; without one, tests that need it are skipped."""
    folder = project_root.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the project")
    return folder


@pytest.fixture(scope="session")
def real_set(shared_data: Path) -> StructureSet:
    """Every 100th structure of the shared files that passes the paper's selection."""
    csv.field_size_limit(10**9)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for path in sorted(shared_data.glob("*.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in itertools.islice(csv.DictReader(file), 0, None, 100):
                numbers, frac_coords, cell = parse_cif(row["cif"])
                if len(numbers) <= 20 and np.linalg.norm(cell, axis=1).max() <= 10:
                    rows.append((numbers, frac_coords, cell))
    return StructureSet(
        ids=np.array([f"s{i}" for i in range(len(rows))]),
        offsets=np.concatenate([[0], np.cumsum([len(numbers) for numbers, _, _ in rows])]).astype(np.int64),
        numbers=np.concatenate([numbers for numbers, _, _ in rows]),
        frac_coords=np.concatenate([frac_coords for _, frac_coords, _ in rows]),
        cells=np.stack([cell for _, _, cell in rows]),
    )


TINY: dict[str, Any] = {
    "system": "Cu-Au",
    "seed": 3,
    "structures": {"withhold": ["AuCu 221"]},
    "voxels": {
        "sites_grid": 16,
        "box_angstrom": 8.0,
        "sites_sigma_angstrom": 0.5,
        "lattice_grid": 8,
        "lattice_sigma_angstrom": 0.5,
        "placement": "compact",
    },
    "train": {
        "precision": "float32",
        "device": "cpu",
        "checkpoint_every_steps": 20,
        "lattice_ae": {"width": 16, "latent": 8, "steps": 200, "batch_size": 16, "learning_rate": 4e-3},
        "sites_ae": {"width": 32, "latent": 16, "steps": 200, "batch_size": 16, "learning_rate": 4e-3},
        "unet": {"width": 4, "levels": 2, "steps": 20, "batch_size": 8, "learning_rate": 3e-3},
        "vae": {"width": 8, "latent": 16, "steps": 20, "batch_size": 8, "learning_rate": 3e-3},
        "constraint": {"width": 8, "steps": 60, "batch_size": 16, "learning_rate": 1e-3},
        "ccdcgan": {"width": 32, "noise": 8, "steps": 200, "batch_size": 16, "learning_rate": 1e-3},
        "flow": {"width": 24, "layers": 2, "steps": 100, "batch_size": 16, "learning_rate": 2e-3},
        "analogue": {"width": 24, "layers": 2, "steps": 100, "batch_size": 16, "learning_rate": 2e-3},
        "cgcnn": {"width": 16, "layers": 2, "steps": 60, "batch_size": 16, "learning_rate": 2e-3},
    },
    "generate": {"n": 24},
    "screen": {"select": 4, "min_contact": 0.5},
    "relax": {"calculator": "emt", "label_max_steps": 1, "candidate_max_steps": 3, "workers": 1},
}
"""A configuration with which the whole loop takes seconds on :func:`copper_gold`."""


@pytest.fixture(scope="session")
def tiny_tree() -> dict[str, Any]:
    """:data:`TINY`."""
    return copy.deepcopy(TINY)


@pytest.fixture
def tiny(tiny_tree: dict[str, Any]) -> dict[str, Any]:
    """:data:`TINY`, to be changed at will."""
    return copy.deepcopy(tiny_tree)


@pytest.fixture(scope="session")
def copper_gold() -> list[Any]:
    """Twenty-four different orderings of Cu and Au on cubic lattices, at most four atoms each; the last three are
    Cu3Au (L1_2), CuAu (L1_0) and CuAu (B2)."""
    from pymatgen.core import Lattice, Structure

    fcc, bcc = (np.ones((3, 3)) - np.eye(3)) / 2, 0.5 - np.eye(3)
    out = []
    for edge, primitive in ((3.6, fcc), (2.9, bcc), (2.4, np.eye(3))):
        for multiples in ((1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 2, 2)):
            n = int(np.prod(multiples))
            for gold in {1: (0, 1), 2: (1,), 3: (1, 2), 4: (1, 3)}[n]:
                lattice = Lattice(edge * (1 + 0.13 * gold / n) * primitive)
                structure = Structure(lattice, ["Cu"], [[0, 0, 0]]) * multiples
                out.append(Structure(structure.lattice, ["Au"] * gold + ["Cu"] * (n - gold), structure.frac_coords))
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    out.append(Structure(Lattice.cubic(3.75), ["Au", "Cu", "Cu", "Cu"], corners))
    out.append(Structure(Lattice.tetragonal(2.8, 3.7), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    out.append(Structure(Lattice.cubic(3.1), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
    return out


@pytest.fixture(scope="session")
def once_trained_run(tmp_path_factory: pytest.TempPathFactory, copper_gold: list[Any]) -> Run:
    from voxtal.data.voxelize import voxelize
    from voxtal.parallel.communicator import SerialCommunicator
    from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT
    from voxtal.training.encode import encode_graphs
    from voxtal.training.stages import MODELS, train_model

    run = Run(tmp_path_factory.mktemp("trained"), build_config(TINY))
    write_config(run.root / "voxtal.toml", TINY)
    paths = run.round(0)
    gold = [structure.composition.get_atomic_fraction("Au") for structure in copper_gold]
    StructureSet.from_structures(
        copper_gold,
        [f"s{i}" for i in range(len(copper_gold))],
        properties={FORMATION_ENERGY: [-x * (1 - x) for x in gold]},
        provenance={SPLIT: [{0: "heldout", 4: "validation"}.get(i % 9, "train") for i in range(len(copper_gold))]},
    ).write(paths.structures)
    voxelize(paths.structures, paths.voxels, run.config.voxels, SerialCommunicator())
    for model in MODELS:
        if model == "constraint":
            encode_graphs(run, paths)
        train_model(run, paths, model, no_progress)
    return run


@contextmanager
def no_progress(_what: str, _total: int) -> Iterator[Callable[..., None]]:
    """Reports nothing."""
    yield lambda _n=1, _text="": None


@pytest.fixture
def quiet() -> Callable[[str, int], Any]:
    """A progress that reports nothing."""
    return no_progress


@pytest.fixture
def trained_run(once_trained_run: Run, tmp_path: Path) -> Run:
    """A run of one's own: voxels and four small trained models of :func:`copper_gold`, labels made up."""
    return Run(shutil.copytree(once_trained_run.root, tmp_path / "trained"), once_trained_run.config)


MAPS: dict[str, Any] = TINY | {
    "structures": {"cell": "conventional"},
    "density": {"grid": 16},
    "train": {
        **TINY["train"],
        "unet": {
            "width": 4,
            "levels": 2,
            "steps": 60,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "rotations": 0,
        },
        "vae": {
            "width": 16,
            "latent": 8,
            "steps": 200,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "rotations": 0,
            "alpha": 0.0,
            "ions": 4,
        },
    },
    "generate": {"generator": "icsg3d", "n": 24},
    "screen": {"select": 4, "min_contact": 0.1},
}
"""A configuration with which ICSG3D's networks learn something of :func:`golden_cubes` in seconds."""


@pytest.fixture(scope="session")
def maps_tree() -> dict[str, Any]:
    """:data:`MAPS`."""
    return copy.deepcopy(MAPS)


@pytest.fixture(scope="session")
def golden_cubes() -> list[Any]:
    """CuAu (B2), Cu3Au and Au3Cu (L1_2) as cubes, each stretched by -6 to 6%."""
    from pymatgen.core import Lattice, Structure

    faces = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    out = []
    for strain in np.linspace(0.94, 1.06, 8):
        out.append(Structure(Lattice.cubic(3.1 * strain), ["Au", "Cu"], [[0, 0, 0], [0.5, 0.5, 0.5]]))
        out.append(Structure(Lattice.cubic(3.75 * strain), ["Au", "Cu", "Cu", "Cu"], faces))
        out.append(Structure(Lattice.cubic(3.95 * strain), ["Cu", "Au", "Au", "Au"], faces))
    return out


def trained_on_maps(folder: Path, tree: dict[str, Any], cubes: list[Any]) -> Run:
    """A run whose networks are trained on the maps of cubes; one in nine is held out, another validates."""
    from voxtal.data.voxelize import voxelize
    from voxtal.parallel.communicator import SerialCommunicator
    from voxtal.structures.structure_set import FORMATION_ENERGY, SPLIT
    from voxtal.training.stages import models_of, train_model

    run = Run(folder, build_config(tree))
    write_config(run.root / "voxtal.toml", tree)
    paths, n = run.round(0), len(cubes)
    StructureSet.from_structures(
        cubes,
        [f"m-{i}" for i in range(n)],
        properties={FORMATION_ENERGY: [-0.02 * i - 0.1 for i in range(n)]},
        provenance={SPLIT: [{0: "heldout", 4: "validation"}.get(i % 9, "train") for i in range(n)]},
    ).write(paths.structures)
    voxelize(paths.structures, paths.density, run.config.density, SerialCommunicator())
    for model in models_of(run, paths):
        train_model(run, paths, model, no_progress)
    return run


@pytest.fixture(scope="session")
def once_maps_run(tmp_path_factory: pytest.TempPathFactory, golden_cubes: list[Any]) -> Run:
    return trained_on_maps(tmp_path_factory.mktemp("maps"), MAPS, golden_cubes)


@pytest.fixture
def maps_run(once_maps_run: Run, tmp_path: Path) -> Run:
    """A run of one's own: density maps and trained UNet, VAE and CGCNN of :func:`golden_cubes`, labels made up."""
    return Run(shutil.copytree(once_maps_run.root, tmp_path / "maps"), once_maps_run.config)


ICSG3D: dict[str, Any] = {
    "seed": 1,
    "density": {"grid": 16},
    "train": {
        "device": "cpu",
        "precision": "float32",
        "unet": {"width": 8, "levels": 2, "steps": 60, "batch_size": 4, "learning_rate": 1e-2, "rotations": 0},
        "vae": {
            "width": 4,
            "latent": 8,
            "steps": 60,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "rotations": 0,
            "ions": 8,
        },
        "cgcnn": {"width": 8, "layers": 1, "steps": 20, "batch_size": 8},
    },
}
"""Networks of ICSG3D that are trained in seconds on :func:`icsg3d_run`."""


@pytest.fixture(scope="session")
def icsg3d_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Round 0 of eighteen ABO3 and four AB, one without a formation energy, with UNet, VAE and a CGCNN; only to be
    read."""
    from pymatgen.core import Lattice, Structure

    from voxtal.data.voxelize import voxelize
    from voxtal.parallel.communicator import SerialCommunicator
    from voxtal.structures.splits import with_split
    from voxtal.training.stages import train_model

    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    pairs = [(a, b) for a in ("Ca", "Sr", "Ba") for b in ("Ti", "Zr", "Hf")]
    structures: list[Any] = [
        Structure(Lattice.cubic(3.8 + 0.03 * i), [a, b, "O", "O", "O"], sites) for i, (a, b) in enumerate(2 * pairs)
    ]
    structures += [Structure(Lattice.cubic(3.2 + 0.1 * i), [a, b], sites[:2]) for i, (a, b) in enumerate(pairs[:4])]
    energies = np.linspace(-3, 0.5, len(structures))
    energies[5] = np.nan
    root = tmp_path_factory.mktemp("icsg3d")
    write_config(root / "voxtal.toml", ICSG3D)
    run = Run(root, build_config(ICSG3D))
    paths = run.round(0)
    given = StructureSet.from_structures(
        structures, [f"s{i}" for i in range(len(structures))], {"formation_energy": energies}
    )
    with_split(given, "composition", 0.2, 0.1, 0).write(paths.structures)
    voxelize(paths.structures, paths.density, run.config.density, SerialCommunicator())
    for model in ("unet", "vae", "cgcnn"):
        train_model(run, paths, model, no_progress)
    return root
