"""Whether crystals have the formation energy that was asked for: codes from N(0, 1) beside those of the condition.

    python benchmarks/icsg3d_condition.py RUN [--attempts 2000]

RUN holds a VAE of the preset `laptop` with deciles of the formation energy, and a CGCNN of it. Attempts take turns over
the ten deciles; both ways have the same noise and the same networks. Predicted energies are CGCNN's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from voxtal.cli.common import open_run, pick_round, print_table
from voxtal.generation.blocks import predicted_column
from voxtal.generation.icsg3d_conditions import training_values
from voxtal.generation.icsg3d_request import MapsRequest
from voxtal.generation.icsg3d_stage import open_maps_generator
from voxtal.structures.conditions import DECILES, decile_of
from voxtal.structures.structure_set import FORMATION_ENERGY
from voxtal.training.device import one_thread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--round", type=int)
    parser.add_argument("--attempts", type=int, default=2000)
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    paths = pick_round(run, arguments.round)
    ours = open_maps_generator(run, paths, MapsRequest())
    condition = ours.models.condition
    if condition.properties != (FORMATION_ENERGY,) or condition.edges is None or ours.models.codes is None:
        parser.error("RUN's VAE was not trained with the preset laptop and deciles of the formation energy")
    edges = condition.edges[0]
    normal = replace(ours, models=replace(ours.models, codes=None))
    attempts = np.arange(arguments.attempts)
    asked = attempts % DECILES
    table = []
    for name, generator in (("codes of N(0, 1)", normal), ("codes of the condition", ours)):
        with one_thread():
            found = generator.rows(attempts).properties[predicted_column(FORMATION_ENERGY)]
        valid = np.isfinite(found)
        energies, wanted = found[valid], asked[valid]
        near = np.abs(decile_of(energies, edges) - wanted) <= 1
        table.append(
            (
                name,
                f"{valid.sum()}/{len(valid)}",
                f"{spearmanr(wanted, energies).statistic:.2f}",
                f"{near.sum()}/{valid.sum()}",
                *(f"{energies[wanted == decile].mean():.2f}" for decile in range(DECILES)),
            )
        )
    known = training_values(condition, paths)[:, 0]
    means = [f"{known[decile_of(known, edges) == decile].mean():.2f}" for decile in range(DECILES)]
    table.append(("training structures", "", "", "", *means))
    print_table(
        "Mean predicted formation energy (eV/atom) of the decile that was asked for",
        ("way", "valid", "Spearman", "within one decile", *map(str, range(DECILES))),
        table,
    )


if __name__ == "__main__":
    main()
