"""What can be learned of the formation energy from a round's crystal graphs, beside naive predictions.

    python benchmarks/constraint.py RUN [--round 0] [--folds 6]

Cross-validated over all of the round's labelled structures: the mean, a Gaussian kernel on the composition (binary
systems), ridge regression on the codes, and the preset's constraint network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from voxtal.cli.common import open_run, print_table, progress
from voxtal.config import Config
from voxtal.data.graphs import GraphSet
from voxtal.parallel.data_parallel import DataParallel
from voxtal.screening.metrics import regression
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.constraint_task import ConstraintTask
from voxtal.training.device import Arithmetic

COMPOSITION_WIDTH = 0.05
RIDGE = 1000.0

Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Training rows and rows to predict -> predictions."""


def predictors(
    config: Config, known: GraphSet, graphs: np.ndarray, fractions: np.ndarray, targets: np.ndarray
) -> dict[str, Predict]:
    """Name -> predictor over rows of the graphs."""
    graphs, layout, threshold = known.dense(), known.layout, known.presence_threshold
    flat = graphs.reshape(len(graphs), -1)

    def mean(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        return np.full(len(test), targets[train].mean())

    def composition(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        weight = np.exp(-((fractions[test][:, None] - fractions[train]) ** 2) / 2 / COMPOSITION_WIDTH**2)
        return weight @ targets[train] / weight.sum(axis=1)

    def ridge(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        centre, level = flat[train].mean(axis=0), targets[train].mean()
        known, asked = flat[train] - centre, flat[test] - centre
        dual = np.linalg.solve(known @ known.T + RIDGE * np.eye(len(train)), targets[train] - level)
        return asked @ (known.T @ dual) + level

    def network(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        task = ConstraintTask(
            f"{config.preset}-constraint",
            config.train.constraint,
            layout,
            threshold,
            graphs[train],
            targets[train],
            Arithmetic.of(config.train),
            DataParallel(),
            config.seed,
        )
        for index in range(task.steps):
            torch.manual_seed(index)
            task.step(index, np.random.default_rng(index))
        with torch.no_grad():
            return task.network.eval()(torch.from_numpy(graphs[test])).numpy()

    return {
        "mean of the training targets": mean,
        "kernel on the composition": composition,
        "ridge regression on the codes": ridge,
        "the preset's constraint": network,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--round", type=int, default=0)
    parser.add_argument("--folds", type=int, default=6)
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    paths = run.round(arguments.round)
    graphs, structures = GraphSet.read(paths.graphs), StructureSet.read(paths.structures)
    targets = structures.properties[FORMATION_ENERGY][graphs.rows]
    heaviest = structures.numbers.max()
    fractions = np.array([np.mean(structures.arrays(int(row))[0] == heaviest) for row in graphs.rows])
    folds = np.random.default_rng(0).permutation(len(targets)) % arguments.folds
    rows = []
    with progress("cross-validate", 4 * arguments.folds) as advance:
        for name, predict in predictors(run.config, graphs, fractions, targets).items():
            predicted = np.empty(len(targets))
            for fold in range(arguments.folds):
                predicted[folds == fold] = predict(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
                advance(1, name)
            figures = regression(targets, predicted)
            rows.append((name, figures["n"], round(figures["mae"], 3), round(figures["r2"], 2)))
    print_table(f"{arguments.folds}-fold, E_f in eV/atom", ("prediction", "n", "MAE", "R2"), rows)


if __name__ == "__main__":
    main()
