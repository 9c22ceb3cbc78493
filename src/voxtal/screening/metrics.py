"""Figures of merit, as pure functions that give their denominators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from voxtal.structures.matching import CDVAE, STRICT, Matcher


def reproduction(originals: Sequence[Any], decoded: Sequence[Any | None]) -> dict[str, Any]:
    """Share of structures that decoding their own code gives back, at both matcher settings.

    ``decoded`` holds None where there was no valid structure; it counts as a failure.
    """
    out: dict[str, Any] = {"n": len(originals)}
    for name, settings in (("strict", STRICT), ("cdvae", CDVAE)):
        matcher = Matcher(settings)
        found = sum(b is not None and matcher.matches(a, b) for a, b in zip(originals, decoded, strict=True))
        out[f"n_{name}"] = found
        out[name] = found / len(originals) if originals else None
    return out


def regression(targets: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Mean absolute error (the targets' unit) and coefficient of determination."""
    if len(targets) == 0:
        return {"n": 0, "mae": None, "r2": None}
    residual = np.sum((targets - predicted) ** 2)
    spread = np.sum((targets - np.mean(targets)) ** 2)
    return {
        "n": len(targets),
        "mae": float(np.mean(np.abs(targets - predicted))),
        "r2": float(1 - residual / spread) if spread > 0 else None,
    }


def relaxation(formation_energy: np.ndarray, before: np.ndarray, e_above_hull: np.ndarray) -> dict[str, Any]:
    """What relaxation did to candidates; all arrays (n,), eV/atom.

    ``e_above_hull`` is signed and against the known phases: negative for a candidate that redefines the hull, NaN
    for one without a hull.
    """
    n = len(formation_energy)
    known = e_above_hull[np.isfinite(e_above_hull)]
    change = np.abs(formation_energy - before)[np.isfinite(before)]  # some methods give no energy before
    return {
        "n_relaxed": n,
        "mean_abs_delta_ef_ev_per_atom": float(np.mean(change)) if len(change) else None,
        "fraction_negative_ef": float(np.mean(formation_energy < 0)) if n else None,
        "best_e_above_hull_ev_per_atom": float(np.min(known)) if len(known) else None,
        "n_within_0.1_of_hull": int(np.sum(known <= 0.1)),
    }
