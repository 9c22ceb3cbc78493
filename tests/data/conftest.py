"""A small structure set with good and bad rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from voxtal.structures.structure_set import StructureSet


@pytest.fixture
def structure_file(tmp_path: Path) -> Path:
    """Forty good structures and four bad ones among them (rows 5, 11, 20 and 43)."""
    path = tmp_path / "structures.h5"
    _structure_set().write(path)
    return path


def _structure_set() -> StructureSet:
    random = np.random.default_rng(0)
    rows = [_good(random) for _ in range(40)]
    bad = {
        5: ([27, 72], [[0, 0, 0], [0, 0, 0.01]], 3.2 * np.eye(3)),
        11: ([27], [[np.nan, 0, 0]], 3.2 * np.eye(3)),
        20: ([], np.empty((0, 3)), 3.2 * np.eye(3)),
        43: ([27, 72], [[0, 0, 0], [0.5, 0.5, 0.0]], np.diag([3.0, 3.0, 80.0])),
    }
    for place, row in bad.items():
        rows.insert(place, row)
    counts = [len(numbers) for numbers, _, _ in rows]
    return StructureSet(
        ids=np.array([f"s-{i}-\N{GREEK SMALL LETTER BETA}" for i in range(len(rows))]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        numbers=np.concatenate([np.asarray(numbers, dtype=np.uint8) for numbers, _, _ in rows]),
        frac_coords=np.concatenate([np.asarray(frac, dtype=np.float64).reshape(-1, 3) for _, frac, _ in rows]),
        cells=np.array([cell for _, _, cell in rows]),
        properties={"formation_energy": random.normal(size=len(rows))},
    )


def _good(random):
    n = int(random.integers(1, 6))
    grid = np.stack(np.meshgrid([0, 0.5], [0, 0.5], [0, 0.5]), axis=-1).reshape(-1, 3)
    frac = random.permutation(grid)[:n] + random.uniform(-0.03, 0.03, (n, 3))
    return random.choice([27, 72], n), frac, np.diag(random.uniform(4, 7, 3)) + random.uniform(-0.3, 0.3, (3, 3))
