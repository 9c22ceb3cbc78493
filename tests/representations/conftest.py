"""Real and random structures, as arrays."""

from __future__ import annotations

import csv
import gzip
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from voxtal.representations.placement import standard_cell
from voxtal.structures.cif import parse_cif

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="session")
def real_structures(shared_data: Path) -> list[Arrays]:
    """Every 40th structure of two files that passes the paper's selection: numbers, fractional coordinates, cell."""
    csv.field_size_limit(10**9)
    found: list[Arrays] = []
    for name in ("mp_20_binary_ternary", "mpts_52"):
        with gzip.open(shared_data / f"{name}.csv.gz", "rt", encoding="utf-8") as file:
            for row in itertools.islice(csv.DictReader(file), 0, None, 40):
                numbers, frac_coords, cell = parse_cif(row["cif"])
                if len(numbers) <= 20 and np.linalg.norm(cell, axis=1).max() <= 10:
                    found.append((numbers, frac_coords, cell))
    return found


@pytest.fixture(scope="session")
def random_structures() -> list[Arrays]:
    """Structures of one to ten atoms in cells of any shape, some left-handed and turned."""
    return [_random_structure(np.random.default_rng(seed)) for seed in range(100)]


def _random_structure(random: np.random.Generator) -> Arrays:
    n = int(random.integers(1, 11))
    cell = standard_cell(random.uniform(3.0, 9.0, 3), random.uniform(65, 110, 3))
    turned = np.linalg.qr(random.normal(size=(3, 3)))[0]
    return random.integers(1, 5, n).astype(np.uint8), random.uniform(-1, 2, (n, 3)), cell @ turned


@pytest.fixture(scope="session")
def random_cells() -> Callable[..., Iterator[np.ndarray]]:
    """``random_cells(n, seed)``: n cells of any shape that is not too flat."""
    return _random_cells


def _random_cells(
    n: int, seed: int, shortest: float = 2.2, longest: float = 10.0, angles: tuple[float, float] = (60, 120)
) -> Iterator[np.ndarray]:
    random = np.random.default_rng(seed)
    while n:
        lengths, degrees = random.uniform(shortest, longest, 3), random.uniform(*angles, 3)
        try:
            cell = standard_cell(lengths, degrees)
        except np.linalg.LinAlgError:
            continue
        if np.linalg.det(cell) > 0.3 * lengths.prod():
            n -= 1
            yield cell
