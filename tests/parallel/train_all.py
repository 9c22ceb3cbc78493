"""Trains models of a run's round 0 in one start and logs the losses of every step; started by tests.

The models are named after the run, or are all of a round.
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from voxtal.config import load_config
from voxtal.parallel.communicator import on_root
from voxtal.parallel.data_parallel import data_parallel
from voxtal.runs import Run
from voxtal.training import trainer
from voxtal.training.encode import encode_graphs
from voxtal.training.stages import GENERATORS, train_model

ALL = ("lattice-ae", "sites-ae", "constraint", "constraint-band_gap", *GENERATORS, "cgcnn", "cgcnn-band_gap")


def _train_all(root: Path, models: Sequence[str]) -> None:
    trainer.LOG_EVERY_STEPS = 1
    run = Run(root, load_config(root / "voxtal.toml"))
    ranks = data_parallel("auto")

    def encode() -> None:
        encode_graphs(run, run.round(0))

    for model in models:
        if model == "constraint":
            on_root(ranks, encode)
        train_model(run, run.round(0), model, lambda _what, _total: nullcontext(lambda *_: None), ranks)
    ranks.close()


_train_all(Path(sys.argv[1]), sys.argv[2:] or ALL)
