"""The tables of ``voxtal evaluate``: figures of all sets side by side, Table 1, and the paper's figures beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from voxtal.cli.common import print_table

Figures = Mapping[str, Any]
Text = Callable[[Figures], str]


def share_text(one: Figures) -> str:
    """A share as a person reads it: ``41/50 = 82.0% [69.2%, 90.2%]``."""
    if one["share"] is None:
        return f"0 of {one['of']}"
    interval = f"{one['share']:.1%} [{one['low']:.1%}, {one['high']:.1%}]"
    return interval if one["n"] is None else f"{one['n']}/{one['of']} = {interval}"


def mean_text(one: Figures) -> str:
    """A mean with its standard error: ``0.061 +- 0.004 (n = 190)``."""
    error = "" if one["standard_error"] is None else f" +- {one['standard_error']:.3f}"
    return "-" if one["mean"] is None else f"{one['mean']:.3f}{error} (n = {one['n']})"


def _distance_text(one: Figures) -> str:
    return "-" if one["wasserstein_1"] is None else f"{one['wasserstein_1']:.3f} (n = {one['n']}, {one['n_reference']})"


def _value_text(one: Figures) -> str:
    return "-" if one["value"] is None else f"{one['value']:.3f} (n = {one['n']})"


def _number_text(one: Any) -> str:
    return str(one)


def _sample_text(one: Figures) -> str:
    return f"{one['n']} of {one['of']}"


_ATTEMPTS: tuple[tuple[str, str, Text], ...] = (
    ("attempts", "attempts", _number_text),
    ("valid", "valid, of attempts", share_text),
    ("compositionally_valid", "and compositionally valid (SMACT), of attempts", share_text),
    ("unique", "valid and unique, of attempts", share_text),
    ("novel", "valid, unique and novel (V.U.N.), of attempts", share_text),
    ("distinct_of_valid", "V.U.N., of valid", share_text),
    ("n_systems", "chemical systems of valid", _number_text),
    ("n_elements", "elements of valid", _number_text),
    ("density_distance", "Wasserstein-1 of density, g/cm^3", _distance_text),
    ("n_elements_distance", "Wasserstein-1 of number of elements", _distance_text),
    ("sampled", "random sample of V.U.N., relaxed", _sample_text),
    ("labelled_of_sampled", "relaxation gave an energy, of sample", share_text),
    ("with_competing_of_labelled", "their system has known compounds, of these", share_text),
    ("complete_hull_of_labelled", "and so has each of its subsystems, of these", share_text),
    ("mean_abs_delta_ef_ev_per_atom", "mean |dE_f| of relaxation, eV/atom", mean_text),
    ("rmsd_angstrom", "mean RMSD to relaxed, A", mean_text),
    ("negative_ef_of_labelled", "E_f < 0 after relaxation, of these", share_text),
    ("relaxed_into_known_of_labelled", "relaxed into a known phase, of these", share_text),
    ("metastable_of_sampled", "E_hull <= 0.1 eV/atom, of sample", share_text),
    ("stable_of_sampled", "E_hull <= 0, of sample", share_text),
    ("new_phases_of_sampled", "new phase on the hull, of sample", share_text),
    ("sun_metastable", "S.U.N. at 0.1 eV/atom, of attempts", share_text),
    ("sun_stable", "S.U.N. at 0, of attempts", share_text),
)
_BESIDE_PAPER: tuple[tuple[str, str, str, Text], ...] = (
    ("reproduction_strict_train", "reproduction, strict matcher, trained on", ".0%", share_text),
    ("reproduction_strict_heldout", "reproduction, strict matcher, held out", ".0%", share_text),
    ("constraint_mae_heldout_ev_per_atom", "constraint's MAE, held out, eV/atom", ".2f", _value_text),
    ("constraint_r2_heldout", "constraint's R2, held out", ".2f", _value_text),
    ("valid", "valid, of attempts", ".0%", share_text),
    ("distinct_of_valid", "distinct (V.U.N.), of valid", ".0%", share_text),
    ("mean_abs_delta_ef_ev_per_atom", "mean |dE_f| of relaxation, eV/atom", ".2f", mean_text),
    ("negative_ef_of_labelled", "E_f < 0 after relaxation, of relaxed", ".0%", share_text),
)
"""Key, title, format of the published number, and how ours is told."""


def print_figures(sets: Mapping[str, Figures]) -> None:
    """Print all sets side by side, then Table 1 of each."""
    rows = [
        (title, *_row(sets, key, text)) for key, title, text in _ATTEMPTS if any(key in one for one in sets.values())
    ]
    print_table("Attempts (95% intervals)", ["figure", *sets], rows)
    for name, one in sets.items():
        if one["systems"]:
            _print_systems(name, one["systems"])


def print_beside_paper(sets: Mapping[str, Figures]) -> None:
    """Print the paper's figures beside those of each set that has them."""
    from voxtal.screening.published import PUBLISHED

    rows = [
        (title, format(PUBLISHED[key], form) if key in PUBLISHED else "-", *_row(sets, key, text))
        for key, title, form, text in _BESIDE_PAPER
        if any(key in one for one in sets.values())
    ]
    print_table("Beside the paper (95% intervals)", ["figure", "published", *sets], rows)


def _row(sets: Mapping[str, Figures], key: str, text: Text) -> list[str]:
    return [text(one[key]) if key in one else "-" for one in sets.values()]


def _print_systems(name: str, table: Sequence[Figures]) -> None:
    columns = ["system", "# gen", "# relaxed", "mean |dE_f|", "# |dE_f| < 0.2", "mean E_f", "mean E_hull", "# new"]
    rows = [
        (
            row["system"],
            row["n_generated"],
            row["n_relaxed"],
            row["mean_abs_delta_ef_ev_per_atom"],
            "-"
            if row["share_delta_ef_below_0.2"] is None
            else f"{row['n_delta_ef_below_0.2']} ({row['share_delta_ef_below_0.2']:.1%})",
            row["mean_formation_energy_ev_per_atom"],
            row["mean_e_above_hull_ev_per_atom"],
            row["n_new_phases"],
        )
        for row in table
    ]
    print_table(f"Systems, {name} (eV/atom)", columns, rows)
