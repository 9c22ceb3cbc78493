"""The files of a hull: ``hull.json``, ``hull.csv`` and, for two or three elements, ``hull.png`` and ``hull.svg``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voxtal.reports.hull_figure import DRAWABLE_ELEMENTS, hull_figure
from voxtal.runs import atomic_path, write_json

COLUMNS = (
    "id",
    "role",
    "formula",
    "spacegroup",
    "formation_energy_ev_per_atom",
    "e_above_known_hull_ev_per_atom",
    "e_above_hull_ev_per_atom",
    "on_hull",
    "new_phase",
    "same_as",
    "round",
    "source",
)
"""Of hull.csv, one row for each entry, lowest above the hull first."""


def write_hull_files(hull: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write what ``voxtal.screening.hull.build_hull`` or ``build_hulls`` gives; the files that were written."""
    written = [folder / "hull.json", folder / "hull.csv"]
    write_json(written[0], hull)
    with atomic_path(written[1]) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        for entry in sorted(hull["entries"], key=lambda e: e["e_above_hull_ev_per_atom"]):
            writer.writerow(_cell(entry[name]) for name in COLUMNS)
    if hull["system"] is not None and len(hull["elements"]) in DRAWABLE_ELEMENTS:
        for name in ("hull.png", "hull.svg"):
            hull_figure(hull, folder / name)
            written.append(folder / name)
    return written


def _cell(value: Any) -> Any:
    return f"{value:.6f}" if isinstance(value, float) else value
