"""What ICSG3D's VAE gives back of crystals, and what it makes of random codes, without the UNet's part in it.

    python benchmarks/icsg3d_vae.py RUN [RUN ...] [--training 300] [--attempts 1000]

Held-out structures, and some of the training split, are encoded, and the means of their codes decoded, as `voxtal
round` counts reproduction: errors of a, b, c, earth mover's distance of sites, difference of their number (means), and
shares of all structures whose composition is right and that are the same crystal by the strict matcher and by CDVAE's.
Then random codes under the conditions of structures drawn at random: how many are valid, and how many are of one of the
paper's classes. The first row is the paper's, where sites come from the UNet and the watershed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voxtal.cli.common import open_run, pick_round, print_table
from voxtal.data.dataset import DensityDataset
from voxtal.generation.icsg3d_stage import MapsModels, open_maps_models
from voxtal.screening.icsg3d import PUBLISHED
from voxtal.screening.icsg3d_models import Row, judged_crystal, vectors_of_structures
from voxtal.screening.map_metrics import length_errors
from voxtal.structures.formula_classes import class_of
from voxtal.structures.splits import HELDOUT, TRAIN, in_split
from voxtal.structures.structure_set import StructureSet

BLOCK = 64


def given_back(
    models: MapsModels, dataset: DensityDataset, structures: StructureSet, rows: np.ndarray, vectors: np.ndarray
) -> list[Row]:
    out = []
    for first in range(0, len(rows), BLOCK):
        block = rows[first : first + BLOCK]
        crystals = models.decode(models.encode(dataset.crystals(block), vectors[block]), vectors[block])
        for row, crystal in zip(dataset.rows[block], crystals, strict=True):
            judged = judged_crystal(crystal, structures, int(row), models.grid)
            out.append(judged | {"lengths": length_errors(crystal.cell, structures.cells[row]).mean()})
    return out


def mean(found: Sequence[Row], key: str) -> float:
    return float(np.mean([one[key] for one in found if one[key] is not None]))


def line(name: str, found: Sequence[Row]) -> tuple[object, ...]:
    errors = (f"{mean(found, key):.3f}" for key in ("lengths", "emd", "missing"))
    shares = (f"{mean(found, key):.1%}" for key in ("composition", "strict", "cdvae"))
    return (name, len(found), *errors, *shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--training", type=int, default=300)
    parser.add_argument("--attempts", type=int, default=1000)
    arguments = parser.parse_args()
    published = (PUBLISHED[key] for key in ("a_error_angstrom", "emd_angstrom", "missing_sites"))
    back: list[tuple[object, ...]] = [("published, held out at random", "", *published, "-", "-", "-")]
    random: list[tuple[object, ...]] = [("published", 1000, f"{PUBLISHED['valid']:.0%}", "-", "-")]
    for root in arguments.runs:
        run = open_run(root)
        paths = pick_round(run, None)
        models, structures = open_maps_models(run, paths), StructureSet.read(paths.structures)
        dataset = DensityDataset(paths.density)
        vectors = vectors_of_structures(models.condition, structures, dataset.rows)
        known = np.isfinite(vectors).all(axis=1)
        for split, most in ((HELDOUT, len(known)), (TRAIN, arguments.training)):
            rows = np.flatnonzero(in_split(structures, dataset.rows, split) & known)[:most]
            back.append(line(f"{root.name}, {split}", given_back(models, dataset, structures, rows, vectors)))
        rng = np.random.default_rng(0)
        codes = rng.standard_normal((arguments.attempts, models.vae.latent))
        began = time.perf_counter()
        made = models.decode(codes, vectors[rng.choice(np.flatnonzero(known), len(codes))])
        seconds = time.perf_counter() - began
        valid = [one for one in made if not one.reason]
        of_classes = sum(class_of(one.numbers) is not None for one in valid)
        share = f"{len(valid) / len(made):.1%}"
        random.append((root.name, len(made), share, f"{of_classes / max(1, len(valid)):.1%}", f"{seconds:.2f}"))
    columns = ("structures", "n", "a, b, c, A", "EMD, A", "|dN_sites|", "composition", "strict", "CDVAE")
    print_table("Through the VAE", columns, back)
    print_table("Random codes", ("run", "attempts", "valid", "of the classes, of valid", "s"), random)


if __name__ == "__main__":
    main()
