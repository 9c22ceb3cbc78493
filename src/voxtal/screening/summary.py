"""A table of attempts as figures, each with its denominator and 95% interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from voxtal.screening.attempts import Row, densities, elements_of, new_ones
from voxtal.screening.metrics import mean, share
from voxtal.structures.structure_set import StructureSet

METASTABLE_EV_PER_ATOM = 0.1
"""Highest energy above the known hull of a metastable structure."""
SMALL_CHANGE_EV_PER_ATOM = 0.2
"""The paper counts structures whose formation energy changes by less than this in relaxation."""


def summarize(rows: Sequence[Row], reference: StructureSet) -> dict[str, Any]:
    """All figures of a table of attempts that ``voxtal.screening.attempts`` made.

    Parameters
    ----------
    rows : sequence of dict
        The table. Energies count for the random sample alone.
    reference : StructureSet
        Structures whose distributions the valid attempts are compared with.

    Returns
    -------
    dict
        JSON-able. Shares are what :func:`voxtal.screening.metrics.share` gives, out of all attempts unless the name
        says otherwise. S.U.N. (stable, unique and novel) is the share of new structures times the share of the
        sampled new ones that are (meta)stable; its interval is that of the latter.
    """
    n = len(rows)
    valid = [row for row in rows if row["valid"]]
    new = new_ones(rows)
    figures = {
        "attempts": n,
        "valid": share(len(valid), n),
        "compositionally_valid": share(sum(bool(row["compositionally_valid"]) for row in valid), n),
        "unique": share(sum(bool(row["unique"]) for row in valid), n),
        "novel": share(len(new), n),
        "distinct_of_valid": share(len(new), len(valid)),
        "n_systems": len({row["system"] for row in valid}),
        "n_elements": len({symbol for row in valid for symbol in row["system"].split("-")}),
        "invalid_reasons": _reasons(rows),
        "density_distance": _distance([row["density_g_per_cm3"] for row in valid], densities(reference)),
        "n_elements_distance": _distance(
            [row["n_elements"] for row in valid], np.array([len(held) for held in elements_of(reference)])
        ),
    }
    sampled = [row for row in rows if row["sampled"]]
    return figures | (_energies(sampled, len(new), n) if sampled else {})


def system_table(rows: Sequence[Row], systems: Sequence[str]) -> list[dict[str, Any]]:
    """The paper's Table 1: what generation and relaxation gave in each of ``systems`` (elements sorted by symbol)."""
    table = []
    for system in systems:
        generated = [rows[i] for i in new_ones(rows) if rows[i]["system"] == system]
        relaxed = [row for row in generated if _known(row["formation_energy_ev_per_atom"])]
        changes = _changes(relaxed)
        small = share(int(np.sum(changes < SMALL_CHANGE_EV_PER_ATOM)), len(changes))
        table.append(
            {
                "system": system,
                "n_generated": len(generated),
                "n_relaxed": len(relaxed),
                "mean_abs_delta_ef_ev_per_atom": mean(changes)["mean"],
                "n_delta_ef_below_0.2": small["n"],
                "share_delta_ef_below_0.2": small["share"],
                "mean_formation_energy_ev_per_atom": mean(_column(relaxed, "formation_energy_ev_per_atom"))["mean"],
                "mean_e_above_hull_ev_per_atom": mean(_column(relaxed, "e_above_hull_ev_per_atom"))["mean"],
                "n_new_phases": sum(bool(row["new_phase"]) for row in relaxed),
            }
        )
    return table


def _energies(sampled: Sequence[Row], n_new: int, n_attempts: int) -> dict[str, Any]:
    labelled = [row for row in sampled if _known(row["formation_energy_ev_per_atom"])]
    above = _column(labelled, "e_above_hull_ev_per_atom")
    energies = _column(labelled, "formation_energy_ev_per_atom")
    metastable = share(int(np.sum(above <= METASTABLE_EV_PER_ATOM)), len(sampled))
    stable = share(int(np.sum(above <= 0.0)), len(sampled))
    return {
        "sampled": {"n": len(sampled), "of": n_new},
        "labelled_of_sampled": share(len(labelled), len(sampled)),
        "with_competing_of_labelled": share(sum(row["n_competing"] > 0 for row in labelled), len(labelled)),
        "complete_hull_of_labelled": share(sum(not row["subsystems_without_known"] for row in labelled), len(labelled)),
        "relaxed_into_known_of_labelled": share(sum(bool(row["relaxed_into"]) for row in labelled), len(labelled)),
        "new_phases_of_sampled": share(sum(bool(row["new_phase"]) for row in labelled), len(sampled)),
        "mean_abs_delta_ef_ev_per_atom": mean(_changes(labelled)),
        "negative_ef_of_labelled": share(int(np.sum(energies < 0)), len(labelled)),
        "rmsd_angstrom": mean(_column(labelled, "rmsd_angstrom")),
        "metastable_of_sampled": metastable,
        "stable_of_sampled": stable,
        "sun_metastable": _of_attempts(metastable, n_new, n_attempts),
        "sun_stable": _of_attempts(stable, n_new, n_attempts),
    }


def _of_attempts(part: Mapping[str, Any], n_new: int, n_attempts: int) -> dict[str, Any]:
    """A share of the sampled new structures as one of all attempts; exact where all were sampled."""
    if part["of"] == n_new:
        return share(part["n"], n_attempts)
    scale = n_new / n_attempts
    return {"n": None, "of": n_attempts} | {name: scale * part[name] for name in ("share", "low", "high")}


def _distance(values: Sequence[float], reference: np.ndarray) -> dict[str, Any]:
    from scipy.stats import wasserstein_distance

    found, expected = np.asarray(values, dtype=float), np.asarray(reference, dtype=float)
    found, expected = found[np.isfinite(found)], expected[np.isfinite(expected)]
    distance = float(wasserstein_distance(found, expected)) if len(found) and len(expected) else None
    return {"wasserstein_1": distance, "n": len(found), "n_reference": len(expected)}


def _reasons(rows: Sequence[Row]) -> dict[str, int]:
    reasons = [row["reason"] for row in rows if not row["valid"]]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=reasons.count, reverse=True)}


def _changes(rows: Sequence[Row]) -> np.ndarray:
    before = _column(rows, "formation_energy_before_ev_per_atom")
    changes = np.abs(_column(rows, "formation_energy_ev_per_atom") - before)
    return changes[np.isfinite(changes)]  # some methods give no energy before


def _column(rows: Sequence[Row], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], dtype=float)


def _known(value: float | None) -> bool:
    return value is not None and value == value
