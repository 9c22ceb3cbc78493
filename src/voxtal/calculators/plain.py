"""Results as plain values: what the ledger stores, and what workers and workflow engines send back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from voxtal.calculators.base import CalculationResult
from voxtal.structures.text import structure_from_text, structure_to_text


def plain_result(result: CalculationResult) -> dict[str, Any]:
    """The keyword arguments of ``Ledger.finish``: plain values, the structure as text in ``relaxed``."""
    return {
        "status": result.status,
        "reason": result.reason,
        "relaxed": None if result.structure is None else structure_to_text(result.structure),
        "energy_per_atom": result.energy_per_atom,
        "energy_per_atom_before": result.energy_per_atom_before,
        "steps": result.steps,
        "wall_seconds": result.wall_seconds,
    }


def result_of(plain: Mapping[str, Any]) -> CalculationResult:
    """The result that :func:`plain_result` made ``plain`` of."""
    values = {key: value for key, value in plain.items() if key != "relaxed"}
    relaxed = plain.get("relaxed")
    return replace(CalculationResult(**values), structure=structure_from_text(relaxed) if relaxed else None)
