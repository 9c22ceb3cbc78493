"""The run in numbers: targets, shares with their denominators, and the table of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

from voxtal.reports.run_data import RoundData

REPRODUCTION_TARGET = 0.95
VALID_TARGET = 0.5
E_ABOVE_HULL_TARGET = 0.1


@dataclass(frozen=True)
class Target:
    """One figure that the run is held against."""

    name: str
    value: float | None
    target: str
    met: bool | None
    """None where there is no figure yet."""
    detail: str
    unit: str = ""


def run_summary(rounds: Sequence[RoundData], facts: dict[str, Any]) -> dict[str, Any]:
    """The run-level ``summary.json``: ``facts``, every finished round's summary, the targets."""
    finished = [data.summary for data in rounds if data.summary]
    return {
        **facts,
        "wall_seconds": sum(summary.get("wall_seconds") or 0.0 for summary in finished),
        "targets": [vars(target) for target in targets(rounds)],
        "rounds": finished,
    }


def targets(rounds: Sequence[RoundData]) -> list[Target]:
    """The targets; shares are those of the newest finished round, the hull distance the best of all."""
    finished = [data for data in rounds if data.summary]
    newest = finished[-1] if finished else None
    summary = newest.summary if newest else {}
    reproduction = summary.get("reproduction_ratio_strict")
    n_train = (newest.evaluation if newest else {}).get("reproduction", {}).get("train", {}).get("n")
    attempts, valid = summary.get("n_attempts"), summary.get("n_valid")
    share = valid / attempts if attempts and valid is not None else None
    distances = [
        (data.summary["best_e_above_hull_ev_per_atom"], data.index)
        for data in finished
        if data.summary.get("best_e_above_hull_ev_per_atom") is not None
    ]
    best, best_round = min(distances, default=(None, None))
    where = f"round {newest.index}" if newest else "no round finished"
    return [
        Target(
            "Reproduction ratio",
            reproduction,
            f"at least {REPRODUCTION_TARGET}",
            None if reproduction is None else reproduction >= REPRODUCTION_TARGET,
            f"strict matcher, structures trained on{f', n = {n_train}' if n_train else ''}, {where}",
        ),
        Target(
            "Valid structures",
            share,
            f"at least {VALID_TARGET:.0%} of all attempts",
            None if share is None else share >= VALID_TARGET,
            f"{valid} of {attempts} attempts, {where}" if share is not None else where,
        ),
        Target(
            "Best energy above hull",
            best,
            f"at most {E_ABOVE_HULL_TARGET} eV/atom",
            None if best is None else best <= E_ABOVE_HULL_TARGET,
            f"relaxed candidate of round {best_round}" if best is not None else where,
            unit="eV/atom",
        ),
    ]


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95% Wilson score interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    z2 = 1.96**2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = sqrt(z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class CandidateRow:
    """A candidate that was handed to the calculator. Energies in eV/atom, None where unknown."""

    id: str
    round: int
    formula: str
    spacegroup: str
    predicted: float | None
    before: float | None
    after: float | None
    e_above_known_hull: float | None
    e_above_hull: float | None
    outcome: str

    @property
    def change(self) -> float | None:
        """|E_f after - E_f before|, eV/atom."""
        return None if self.before is None or self.after is None else abs(self.after - self.before)


def candidate_rows(rounds: Sequence[RoundData]) -> list[CandidateRow]:
    """Every selected or calculated candidate, lowest energy above hull first, those without one last.

    The hull of the newest round that has one is used for all, so that the rows can be compared.
    """
    hulls = [data.hull for data in rounds if data.hull]
    entries = {(entry["round"], entry["id"]): entry for entry in hulls[-1]["entries"]} if hulls else {}
    rows = [
        _row(data, attempt, entries.get((data.index, attempt["id"]), {}))
        for data in rounds
        for attempt in data.candidates
        if attempt["outcome"] == "selected" or attempt["id"] in data.calculations
    ]
    return sorted(rows, key=lambda row: (row.e_above_hull is None, row.e_above_hull or 0.0, row.id))


def _row(data: RoundData, attempt: dict[str, str], entry: dict[str, Any]) -> CandidateRow:
    result = data.calculations.get(attempt["id"], {})
    status = result.get("status", "not calculated yet")
    reason = result.get("reason")
    return CandidateRow(
        id=attempt["id"],
        round=data.index,
        formula=entry.get("formula") or attempt.get("formula", ""),
        spacegroup=str(entry.get("spacegroup") or attempt.get("spacegroup", "")),
        predicted=_number(attempt.get("predicted_formation_energy_ev_per_atom")),
        before=_number(result.get("formation_energy_before")),
        after=_number(result.get("formation_energy")),
        e_above_known_hull=_number(entry.get("e_above_known_hull_ev_per_atom")),
        e_above_hull=_number(entry.get("e_above_hull_ev_per_atom")),
        outcome=f"{status}: {reason}" if reason else status,
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if isfinite(number) else None
