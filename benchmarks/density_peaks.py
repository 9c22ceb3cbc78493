"""Crystals from the density map alone, beside the published way, which is told where which ion is.

    python benchmarks/density_peaks.py RUN [--n 200]

Of the held-out structures of a run directory whose density maps are there: how many come back with all their ions and
elements. "Density alone" fits Gaussians (density_peaks.py) and takes the likeliest of the elements in the data. The
other two are given the true species map: the published watershed, and voxtal's fit of both maps. Milliseconds of
processor time a map.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from voxtal.cli.common import open_run, print_table, progress
from voxtal.data.dataset import DensityDataset
from voxtal.representations.density import DensityGrid, binary_map, cell_from_coordinates
from voxtal.representations.density_decoding import decode_density
from voxtal.representations.density_peaks import find_peaks, likeliest
from voxtal.representations.reasons import Undecodable
from voxtal.representations.watershed import decode_watershed
from voxtal.structures.splits import HELDOUT, in_split
from voxtal.structures.structure_set import StructureSet
from voxtal.training.density_data import TurnedMaps

Way = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--n", type=int, default=200)
    arguments = parser.parse_args()
    run = open_run(arguments.run, None)
    paths = run.round(0)
    dataset, structures = DensityDataset(paths.density, run.config.density), StructureSet.read(paths.structures)
    grid = DensityGrid.of(dataset.settings)
    elements = np.unique(structures.numbers).astype(np.int64)
    rows = np.flatnonzero(in_split(structures, dataset.rows, HELDOUT))[: arguments.n]
    maps = TurnedMaps(dataset, rows, 0, 0, "cpu")  # type: ignore[arg-type]

    def alone(density: np.ndarray, _species: np.ndarray, cell: np.ndarray) -> np.ndarray:
        return likeliest(find_peaks(density, cell, grid).log_shapes(), elements, grid)

    ways: dict[str, Way] = {
        "density alone": alone,
        "published watershed, true species map": lambda _, s, c: decode_watershed(s, binary_map(s), c, grid)[0],
        "fit of both maps, true species map": lambda d, s, c: decode_density(d, s, c, grid).numbers,
    }
    right, seconds = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0.0)
    with progress("maps", len(rows)) as advance:
        for i, row in enumerate(rows):
            batch = maps.batch(np.array([i]))
            four, species = batch.maps[0].numpy(), batch.species[0].numpy()
            cell = cell_from_coordinates(four[1:], grid)
            expected = np.sort(structures.arrays(int(dataset.rows[row]))[0])
            for name, way in ways.items():
                began = time.process_time()
                try:
                    found = np.sort(way(four[0], species, cell))
                except Undecodable:
                    found = np.empty(0)
                seconds[name] += time.process_time() - began
                right[name] += len(found) == len(expected) and bool((found == expected).all())
            advance(1, "")
    table = [(n, f"{right[n]} of {len(rows)}", f"{1e3 * seconds[n] / len(rows):.0f}") for n in ways]
    print_table("All ions and elements of held-out structures", ("way", "right", "ms"), table)


if __name__ == "__main__":
    main()
