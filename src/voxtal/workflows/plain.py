"""Settings and calculators as compact JSON text: what the ledger stores and what worker processes are sent."""

from __future__ import annotations

import json
from dataclasses import asdict

from voxtal.calculators.base import CalculatorSpec, RelaxSettings


def settings_to_text(settings: RelaxSettings) -> str:
    return json.dumps(asdict(settings), sort_keys=True, separators=(",", ":"))


def settings_from_text(text: str) -> RelaxSettings:
    return RelaxSettings(**json.loads(text))


def spec_to_text(spec: CalculatorSpec) -> str:
    return json.dumps({"name": spec.name, "options": dict(spec.options)}, sort_keys=True, separators=(",", ":"))


def spec_from_text(text: str) -> CalculatorSpec:
    return CalculatorSpec(**json.loads(text))
