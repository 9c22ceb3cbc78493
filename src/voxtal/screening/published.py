"""The published figures of multicomponent CCDCGAN, and ours under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxtal.screening.metrics import share

PUBLISHED: dict[str, float] = {
    "valid": 9160 / 50000,
    "distinct_of_valid": 8310 / 9160,
    "mean_abs_delta_ef_ev_per_atom": 0.10,
    "negative_ef_of_labelled": 355 / 493,
    "reproduction_strict_train": 0.87,
    "constraint_mae_heldout_ev_per_atom": 0.11,
    "constraint_r2_heldout": 0.90,
}
"""Under the names of :func:`voxtal.screening.summary.summarize` and :func:`model_figures`. The reproduction ratio is
that of ``separated`` autoencoders; the constraint's structures were held out at random."""


def model_figures(evaluation: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of what ``voxtal.screening.evaluate.evaluate_models`` gave, each with its number of structures."""
    figures = {
        f"reproduction_strict_{split}": share(part["n_strict"], part["n"])
        for split, part in evaluation["reproduction"].items()
    }
    heldout = evaluation["constraint"]["heldout"]
    figures["constraint_mae_heldout_ev_per_atom"] = {"n": heldout["n"], "value": heldout["mae"]}
    figures["constraint_r2_heldout"] = {"n": heldout["n"], "value": heldout["r2"]}
    return figures
