"""Images of zeros and ones: what networks trained with CCDCGAN's published threshold at 0.5 leave of voxels."""

from __future__ import annotations

import numpy as np

STEP = 0.5
"""Value at which the published loss cuts."""

_HIGH, _SHARE = 0.85, 0.75


def is_step(values: np.ndarray) -> bool:
    """Whether nearly all ``values`` above the step are near one: of a Gaussian's a ninth are above 0.85."""
    above = values[values > STEP]
    return len(above) > 0 and float(np.mean(above > _HIGH)) > _SHARE


def step_radius(sigma: float) -> float:
    """Radius at which a Gaussian falls to the step."""
    return float(sigma * np.sqrt(-2 * np.log(STEP)))
