"""What a run directory holds, read into plain dictionaries for status and report.

Every file may be absent: a report can be written, and the status asked for, while the run is going.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voxtal.config import GENERATORS
from voxtal.runs import RoundPaths, read_json

AUTOENCODERS = ("lattice-ae", "sites-ae")
CONSTRAINT = "constraint"
MAPS_MODELS = ("unet", "vae", "cgcnn")
"""ICSG3D's; CGCNNs of other properties than the formation energy are called ``cgcnn-NAME``."""


def networks_of(paths: RoundPaths) -> list[str]:
    """The networks of a round after its autoencoders, in the order in which they are trained.

    Constraints of other properties and generators are those that training has begun with; without any, the published.
    """
    begun = _begun(paths)
    others = sorted(name for name in begun if name.startswith(f"{CONSTRAINT}-"))
    return [CONSTRAINT, *others, *([name for name in GENERATORS if name in begun] or GENERATORS[:1])]


def models_of_round(paths: RoundPaths) -> list[str]:
    """The networks of a round in the order in which they are trained, of the generator that it was begun with."""
    if not draws_maps(paths):
        return [*AUTOENCODERS, *networks_of(paths)]
    return [*MAPS_MODELS, *sorted(name for name in _begun(paths) if name.startswith(f"{MAPS_MODELS[-1]}-"))]


def draws_maps(paths: RoundPaths) -> bool:
    """Whether a round's generator is ICSG3D's, by what is there: its networks, or density maps alone."""
    begun = _begun(paths)
    if begun & {*AUTOENCODERS, *GENERATORS}:
        return False
    maps, voxels = (any(folder.glob("*.h5")) for folder in (paths.density, paths.voxels))
    return bool(begun & {"unet", "vae"}) or (maps and not voxels)


def _begun(paths: RoundPaths) -> set[str]:
    return {folder.name for folder in paths.train("").glob("*") if folder.is_dir()}


@dataclass(frozen=True)
class RoundData:
    """The results of one round; empty where a stage has not written any."""

    index: int
    summary: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    evaluation: dict[str, Any]
    candidates: list[dict[str, str]]
    hull: dict[str, Any]
    hull_picture: bytes | None
    calculations: dict[str, dict[str, Any]]
    """Id of a candidate -> its result.json."""


def read_round(paths: RoundPaths) -> RoundData:
    """Read what round ``paths`` has written so far.

    Raises
    ------
    UserError
        A file is there but is not what it should be.
    """
    results = [read_json(path) for path in sorted(paths.relax.glob("*/result.json"))]
    picture = paths.hull.with_suffix(".png")
    return RoundData(
        index=paths.index,
        summary=_read_if_there(paths.summary),
        metrics={model: read_metrics(paths.train(model) / "metrics.jsonl") for model in models_of_round(paths)},
        evaluation=_read_if_there(paths.evaluation),
        candidates=read_candidates(paths.screen / "candidates.csv"),
        hull=_read_if_there(paths.hull),
        hull_picture=picture.read_bytes() if picture.is_file() else None,
        calculations={str(result["id"]): result for result in results},
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Lines of a ``metrics.jsonl``, each step once, later lines winning.

    A training that was killed and resumed repeats the steps after its checkpoint, and the last line may be
    half written.
    """
    if not path.is_file():
        return []
    by_step = {}
    for line in path.read_text().splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        by_step[record["step"]] = record
    return [by_step[step] for step in sorted(by_step)]


def read_candidates(path: Path) -> list[dict[str, str]]:
    """Rows of ``screen/candidates.csv``, one per attempt."""
    if not path.is_file():
        return []
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
