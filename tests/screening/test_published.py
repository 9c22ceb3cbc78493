"""The paper's figures beside ours."""

from __future__ import annotations

from voxtal.screening.metrics import share
from voxtal.screening.published import PUBLISHED, model_figures


def test_figures_of_models_stand_under_the_published_names() -> None:
    """Training error beside the paper's held-out error would flatter us; another name would leave the row empty."""
    evaluation = {
        "reproduction": {"train": {"n": 10, "n_strict": 9}, "heldout": {"n": 4, "n_strict": 2}},
        "constraint": {"train": {"n": 8, "mae": 0.01, "r2": 0.99}, "heldout": {"n": 2, "mae": 0.2, "r2": None}},
    }
    figures = model_figures(evaluation)
    assert figures["reproduction_strict_train"] == share(9, 10)
    assert figures["reproduction_strict_heldout"] == share(2, 4)
    assert figures["constraint_mae_heldout_ev_per_atom"] == {"n": 2, "value": 0.2}
    assert figures["constraint_r2_heldout"]["value"] is None
    assert figures.keys() - {"reproduction_strict_heldout"} <= PUBLISHED.keys()
