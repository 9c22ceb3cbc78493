"""Figures of merit, as pure functions that give their denominators."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np

from voxtal.structures.matching import CDVAE, STRICT, Matcher

MAX_REPRODUCED = 1000
"""Structures of each split that are decoded and matched; beyond it an evenly spaced sample."""
Z_95 = 1.959963984540054
"""Quantile of the normal distribution for a two-sided interval of 95%."""


def share(n: int, of: int) -> dict[str, Any]:
    """``n`` out of ``of`` with the 95% Wilson score interval (J. Am. Stat. Assoc. 22, 209 (1927)); None out of 0."""
    if of == 0:
        return {"n": n, "of": of, "share": None, "low": None, "high": None}
    p, z2 = n / of, Z_95**2
    middle, scale = (p + z2 / (2 * of)), 1 + z2 / of
    half = Z_95 * sqrt(p * (1 - p) / of + z2 / (4 * of**2))
    low, high = (middle - half) / scale, (middle + half) / scale
    return {"n": n, "of": of, "share": p, "low": 0.0 if n == 0 else low, "high": 1.0 if n == of else high}


def mean(values: np.ndarray) -> dict[str, Any]:
    """Mean of the finite values and its standard error; None where there are too few."""
    finite = values[np.isfinite(values)]
    n = len(finite)
    return {
        "n": n,
        "mean": float(np.mean(finite)) if n else None,
        "standard_error": float(np.std(finite, ddof=1) / sqrt(n)) if n > 1 else None,
    }


def spaced(members: np.ndarray) -> np.ndarray:
    """At most :data:`MAX_REPRODUCED` of the rows, evenly spaced."""
    return members[:: max(1, -(-len(members) // MAX_REPRODUCED))]


def reproduction(originals: Sequence[Any], decoded: Sequence[Any | None]) -> dict[str, Any]:
    """Share of structures that decoding their own code gives back, at both matcher settings.

    ``decoded`` holds None where there was no valid structure; it counts as a failure. ``*_low`` and ``*_high`` bound
    the 95% Wilson interval.
    """
    out: dict[str, Any] = {"n": len(originals)}
    for name, settings in (("strict", STRICT), ("cdvae", CDVAE)):
        matcher = Matcher(settings)
        found = sum(b is not None and matcher.matches(a, b) for a, b in zip(originals, decoded, strict=True))
        counted = share(found, len(originals))
        out |= {f"n_{name}": found, name: counted["share"]}
        out |= {f"{name}_low": counted["low"], f"{name}_high": counted["high"]}
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


def parity(
    targets: np.ndarray, predicted: np.ndarray, ids: np.ndarray, splits: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Errors of predictions (n,) on each split, and every labelled point."""
    out: dict[str, Any] = {"parity": []}
    for name, members in splits.items():
        labelled = members[np.isfinite(targets[members])]
        out[name] = regression(targets[labelled], predicted[labelled])
        out["parity"] += [
            {"id": str(ids[i]), "split": name, "target": float(targets[i]), "predicted": float(predicted[i])}
            for i in labelled
        ]
    return out


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
