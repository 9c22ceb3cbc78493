"""The figures of ICSG3D from what was found of each structure and each attempt, beside the published ones
(doi:10.1021/acs.jcim.0c00464)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxtal.generation.blocks import condition_column, predicted_column
from voxtal.screening.attempts import element_counts
from voxtal.screening.icsg3d_models import COUNTS, DECODERS, EDGES, THROUGH_VAE, UNET_ALONE, Latent, Row
from voxtal.screening.map_metrics import voxel_scores
from voxtal.screening.metrics import mean, regression, share
from voxtal.structures.splits import reduced_formulas
from voxtal.structures.structure_set import FORMATION_ENERGY, REASON, StructureSet
from voxtal.structures.validity import shortest_distance
from voxtal.units import MIN_DISTANCE_ANGSTROM, MIN_VOLUME_ANGSTROM3

PUBLISHED: dict[str, float] = {
    "a_error_angstrom": 0.06,
    "b_error_angstrom": 0.06,
    "c_error_angstrom": 0.06,
    "emd_angstrom": 0.090,
    "missing_sites": 0.198,
    "label_recall": 0.87,
    "vae_mse": 0.013,
    "valid": 760 / 1000,
    "negative_ef_of_valid": 450 / 760,
    "known_formula_of_valid": 75 / 760,
    "known_formula_ef_mae_ev_per_atom": 0.6,
    "known_formula_length_mae_angstrom": 0.85,
    "code_mean": 0.0,
    "code_variance": 0.99,
}
"""Under the names of :func:`beside_paper`. Structures were held out at random there, ten rotations of each counted."""
PUBLISHED_MAE: dict[str, tuple[float, str]] = {
    "formation_energy": (0.102, "eV/atom"),
    "energy_per_atom": (0.114, "eV/atom"),
    "band_gap": (0.299, "eV"),
    "bulk_modulus": (0.186, "log10 GPa"),
    "shear_modulus": (0.306, "log10 GPa"),
    "poisson_ratio": (0.051, ""),
    "refractive_index": (0.155, ""),
    "dielectric_constant": (0.115, "log10"),
}
"""Table 1: property -> mean absolute error and its unit."""
PUBLISHED_TABLE_5: dict[str, tuple[float, float, float, float]] = {
    "no DFC, sigma 1": (0.012, 0.55, 0.150, 1.0),
    "DFC, sigma 1": (0.013, 0.55, 0.112, 0.25),
    "DFC, sigma r_i": (0.013, 0.87, 0.090, 0.198),
}
"""Table 5: system -> VAE's MSE, UNet's recall of non-zero classes, mean EMD (A), mean |dN_sites|."""

_FEWEST_TO_CORRELATE = 20
MOST_TYPES, MOST_ELEMENTS = 10, 15
"""As many formula types and elements as Fig. 6 shows."""


def map_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Figures of the rows of one split that ``judge_block`` made.

    Returns
    -------
    dict
        For maps as they are (``unet``) and, with a VAE, those that it gives back (``vae``): scores of species maps
        (means over structures, and ``pooled`` over all their voxels), errors of cells, and for each decoder how
        crystals come back. Errors of sites are means over those that have any; shares are out of all structures.
    """
    out: dict[str, Any] = {"n": len(rows)}
    for source in (UNET_ALONE, THROUGH_VAE):
        if not rows or f"{source}_right" not in rows[0]:
            continue
        crystals = {decoder: _crystals(rows, f"{source}_{decoder}_") for decoder in DECODERS}
        cells = {f"{edge}_error_angstrom": mean(_column(rows, f"{source}_{edge}_error")) for edge in EDGES}
        out[source] = {"voxels": _voxels(rows, source), "cells": cells, "crystals": crystals}
    if rows and "vae_mse" in rows[0]:
        out["vae_mse"] = mean(_column(rows, "vae_mse"))
        out["vae_density_mse"] = mean(_column(rows, "vae_density_mse"))
    return out


def _voxels(rows: Sequence[Row], source: str) -> dict[str, Any]:
    counts = np.array([[row[f"{source}_{name}"] for name in COUNTS] for row in rows])
    labels = np.array([[row[f"{source}_right_labels"], row[f"{source}_inside"]] for row in rows])
    each, pooled = voxel_scores(counts), voxel_scores(counts.sum(axis=0))
    names = ("recall", "precision", "f1")
    right, inside = labels.sum(axis=0)
    return {
        "label_recall": mean(labels[:, 0] / np.maximum(labels[:, 1], 1)),
        **{name: mean(each[:, k]) for k, name in enumerate(names)},
        "pooled": {"label_recall": float(right / max(inside, 1))}
        | {name: float(pooled[k]) for k, name in enumerate(names)},
    }


def _crystals(rows: Sequence[Row], prefix: str) -> dict[str, Any]:
    n = len(rows)
    with_sites = [row for row in rows if row[f"{prefix}missing"] is not None]
    missing = _column(with_sites, f"{prefix}missing")
    return {
        "decoded": share(len(with_sites), n),
        "valid": share(sum(not row[f"{prefix}reason"] for row in rows), n),
        "emd_angstrom": mean(_column(with_sites, f"{prefix}emd")),
        "missing_sites": mean(missing),
        "all_sites": share(int((missing == 0).sum()), n),
        "composition": share(sum(bool(row[f"{prefix}composition"]) for row in with_sites), n),
        "strict": share(sum(row[f"{prefix}strict"] for row in rows), n),
        "cdvae": share(sum(row[f"{prefix}cdvae"] for row in rows), n),
    }


def beside_paper(figures: Mapping[str, Any], decoder: str) -> dict[str, Any]:
    """Figures of one split under the names of :data:`PUBLISHED`."""
    out = {}
    if UNET_ALONE in figures:
        out["label_recall"] = figures[UNET_ALONE]["voxels"]["label_recall"]
    if THROUGH_VAE in figures:
        crystals = figures[THROUGH_VAE]["crystals"][decoder]
        out |= figures[THROUGH_VAE]["cells"] | {"vae_mse": figures["vae_mse"]}
        out |= {name: crystals[name] for name in ("emd_angstrom", "missing_sites")}
    return out


def latent_figures(codes: Latent, seed: int) -> dict[str, Any]:
    """Mean and variance of the dimensions of drawn codes; how many dimensions tell structures apart at all."""
    drawn = codes.drawn(seed)
    return {
        "n": len(codes.rows),
        "dimensions": codes.mean.shape[1],
        "code_mean": float(drawn.mean()),
        "code_variance": float(drawn.var(axis=0).mean()),
        "used_dimensions": int((codes.mean.var(axis=0) > 0.01).sum()),
    }


def property_figures(targets: np.ndarray, predicted: np.ndarray, log10: bool) -> dict[str, Any]:
    """Errors of a property (n,) on structures where it is known, of its logarithm where it is learned as that."""
    known = np.isfinite(targets) & np.isfinite(predicted)
    if log10:
        known &= targets > 0
        return regression(np.log10(targets[known]), np.log10(predicted[known]))
    return regression(targets[known], predicted[known])


def is_apart(numbers: np.ndarray, frac_coords: np.ndarray, cell: np.ndarray) -> bool:
    """Whether all sites are more than 0.5 A from each other, which is what the paper calls valid.

    Images of one and the same site count too, which theirs did not: cells are longer than that.
    """
    if not len(numbers) or not (np.isfinite(frac_coords).all() and np.isfinite(cell).all()):
        return False
    if not abs(np.linalg.det(cell)) >= MIN_VOLUME_ANGSTROM3:
        return False
    return shortest_distance(frac_coords, cell) > MIN_DISTANCE_ANGSTROM


def formula_type(numbers: np.ndarray) -> str:
    """Anonymous formula such as AB2, rising counts, of atomic numbers (n,)."""
    counts = np.sort(np.unique(numbers, return_counts=True)[1])
    reduced = (counts // np.gcd.reduce(counts)).tolist() if len(counts) else []
    return "".join(f"{chr(65 + i)}{n if n > 1 else ''}" for i, n in enumerate(reduced))


def attempt_rows(attempts: StructureSet, predicted: str) -> list[Row]:
    """One row for each attempt: valid or why not, formula type, formation energy by the column ``predicted``."""
    energies = attempts.properties.get(predicted, np.full(len(attempts), np.nan))
    reasons = attempts.provenance.get(REASON, np.full(len(attempts), ""))
    formulas = reduced_formulas(attempts)
    return [
        {
            "id": str(attempts.ids[i]),
            "n_atoms": len(attempts.arrays(i)[0]),
            "type": formula_type(attempts.arrays(i)[0]),
            "reduced": formulas[i],
            "apart": is_apart(*attempts.arrays(i)),
            "reason": str(reasons[i]),
            "formation_energy_ev_per_atom": float(energies[i]),
        }
        for i in range(len(attempts))
    ]


def attempt_figures(rows: Sequence[Row], attempts: StructureSet, known: StructureSet) -> dict[str, Any]:
    """Figures of :func:`attempt_rows`: validity, energies, formula types, elements, and formulas of known structures.

    Parameters
    ----------
    known
        Structures whose formulas count as known, in conventional cells as the attempts are.
    """
    n = len(rows)
    valid = [i for i, row in enumerate(rows) if not row["reason"]]
    energies = np.array([rows[i]["formation_energy_ev_per_atom"] for i in valid])
    predicted = np.isfinite(energies)
    types = Counter(rows[i]["type"] for i in valid)
    elements = Counter(element_counts(attempts.subset(valid)))
    return {
        "attempts": n,
        "valid": share(sum(row["apart"] for row in rows), n),
        "valid_voxtal": share(len(valid), n),
        "reasons": dict(Counter(row["reason"] for row in rows if row["reason"]).most_common()),
        "negative_ef_of_valid": share(int((energies[predicted] < 0).sum()), int(predicted.sum())),
        "n_types": len(types),
        "types": {name: _type_figures(count, name, rows, valid) for name, count in types.most_common(MOST_TYPES)},
        "n_elements": len(elements),
        "elements": dict(elements.most_common(MOST_ELEMENTS)),
        "asked": _asked(attempts, valid),
        **_known_formulas(rows, valid, attempts, known),
    }


def _asked(attempts: StructureSet, valid: Sequence[int]) -> dict[str, Any]:
    """For each property of the condition, whether what is predicted of valid attempts follows what was asked of them:
    Spearman's correlation, and mean predictions by tenths of the attempts, from the lowest that was asked."""
    from scipy.stats import spearmanr

    out = {}
    for column, asked in attempts.properties.items():
        name = column.removeprefix(condition_column(""))
        predicted = attempts.properties.get(predicted_column(name), np.full(len(attempts), np.nan))[valid]
        known = np.isfinite(asked[valid]) & np.isfinite(predicted)
        if name == column or known.sum() < _FEWEST_TO_CORRELATE:
            continue
        told, found = asked[valid][known], predicted[known]
        tenths = np.array_split(found[np.argsort(told, kind="stable")], 10)
        correlation = float(spearmanr(told, found).statistic) if np.ptp(told) > 0 else None
        out[name] = {"n": int(known.sum()), "spearman": correlation, "means": [float(part.mean()) for part in tenths]}
    return out


def _type_figures(count: int, name: str, rows: Sequence[Row], valid: Sequence[int]) -> dict[str, Any]:
    energies = np.array([rows[i]["formation_energy_ev_per_atom"] for i in valid if rows[i]["type"] == name])
    finite = energies[np.isfinite(energies)]
    return {"n": count, "median_formation_energy_ev_per_atom": float(np.median(finite)) if len(finite) else None}


def energies_by_type(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Predicted formation energies of the valid attempts of each of the commonest formula types."""
    valid = [row for row in rows if not row["reason"] and np.isfinite(row["formation_energy_ev_per_atom"])]
    types = Counter(row["type"] for row in valid).most_common(MOST_TYPES)
    return {name: [row["formation_energy_ev_per_atom"] for row in valid if row["type"] == name] for name, _ in types}


def _known_formulas(
    rows: Sequence[Row], valid: Sequence[int], attempts: StructureSet, known: StructureSet
) -> dict[str, Any]:
    """Valid attempts with the formula of a known structure, and how far they are from the one with the nearest cell."""
    by_formula: dict[str, list[int]] = {}
    for k, formula in enumerate(reduced_formulas(known)):
        by_formula.setdefault(formula, []).append(k)
    energies = known.properties.get(FORMATION_ENERGY, np.full(len(known), np.nan))
    lengths, found = np.linalg.norm(known.cells, axis=2), np.linalg.norm(attempts.cells, axis=2)
    length_errors, energy_errors = [], []
    matched = [i for i in valid if rows[i]["reduced"] in by_formula]
    for i in matched:
        candidates = by_formula[rows[i]["reduced"]]
        errors = np.abs(lengths[candidates] - found[i]).mean(axis=1)
        nearest = int(np.argmin(errors))
        length_errors.append(errors[nearest])
        energy_errors.append(abs(rows[i]["formation_energy_ev_per_atom"] - energies[candidates[nearest]]))
    return {
        "known_formula_of_valid": share(len(matched), len(valid)),
        "known_formula_length_mae_angstrom": mean(np.array(length_errors)),
        "known_formula_ef_mae_ev_per_atom": mean(np.array(energy_errors)),
    }


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)
