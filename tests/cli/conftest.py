"""A run directory with the results of one finished round and one that is going on."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PHASES = {
    "r0-00007": ("CoHf", 221, [27, 72], [[0, 0, 0], [0.5, 0.5, 0.5]], np.eye(3) * 3.18),
    "r0-00012": (
        "Co2Hf",
        227,
        [72, 72, 27, 27, 27, 27],
        [[0, 0, 0], [0.25, 0.25, 0.25], *([0.625, 0.625, 0.625] - 0.5 * np.array(k) for k in (
            [0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]
        ))],
        3.45 * (np.ones((3, 3)) - np.eye(3)),
    ),
}  # fmt: skip


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """Round 0 complete, round 1 in the middle of training."""
    return _write_run(tmp_path / "run")


@pytest.fixture(scope="module")
def shared_run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for tests that only read it."""
    return _write_run(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture(scope="session")
def signalling_itself() -> Callable[[int, str, str], list[str]]:
    """Begins the command of a voxtal that sends itself a signal after the call of ``at`` for which ``when`` is true:
    an expression of ``given``, the call's arguments, and ``calls``, how many there have been."""
    program = str(Path(__file__).with_name("signals_itself.py"))
    return lambda number, at, when: [sys.executable, program, str(int(number)), at, when]


def _write_run(root: Path) -> Path:
    _write(root / "voxtal.toml", 'system = "Co-Hf"\nseed = 7\n')
    _write_round(root / "round-000")
    second = root / "round-001"
    _write(second / "structures.h5", "")
    _write_metrics(second / "train" / "lattice-ae", steps=600, until=600)
    _write(second / "train" / "lattice-ae" / "best.pt", "")
    _write_metrics(second / "train" / "sites-ae", steps=600, until=240)
    return root


def _write_round(folder: Path) -> None:
    for model in ("lattice-ae", "sites-ae", "constraint", "ccdcgan"):
        _write_metrics(folder / "train" / model, steps=1200, until=1200)
        _write(folder / "train" / model / "best.pt", "")
    for name in ("structures.h5", "voxels/index.h5", "encode/graphs.h5", "generate/candidates.h5"):
        _write(folder / name, "")
    _write_json(folder / "screen" / "evaluation.json", EVALUATION)
    _write_candidates(folder / "screen" / "candidates.csv")
    _write_calculations(folder / "relax")
    _write(folder / "relax" / "relaxed.h5", "")
    _write_json(folder / "hull" / "hull.json", HULL)
    _write_picture(folder / "hull" / "hull.png")
    _write_json(folder / "stages.json", SUMMARY["stages"])
    _write_json(folder / "report" / "summary.json", SUMMARY)


def _write_metrics(folder: Path, steps: int, until: int) -> None:
    lines = []
    for step in range(10, until + 1, 10):
        loss = 0.7 * float(np.exp(-step / 300)) + 0.01
        losses = (
            {"generator_loss": 0.6 + loss, "discriminator_loss": 0.5 + loss / 2}
            if folder.name == "ccdcgan"
            else {"loss": loss, "heldout_loss": 1.3 * loss}
        )
        lines.append(json.dumps({"step": step, "steps": steps, "seconds": step / 12, **losses}))
    _write(folder / "metrics.jsonl", "\n".join(lines) + '\n{"step": 12')


def _write_candidates(path: Path) -> None:
    columns = ("id", "formula", "n_atoms", "spacegroup", "outcome", "reason")
    energy = "predicted_formation_energy_ev_per_atom"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, [*columns, energy, "matches"])
        writer.writeheader()
        for index in range(40):
            name = f"r0-{index:05d}"
            formula, group = PHASES[name][:2] if name in PHASES else ("Co3Hf2", 1)
            outcome = "selected" if name in (*PHASES, "r0-00030") else ("invalid", "duplicate", "known")[index % 3]
            row = (name, formula, 2, group, outcome, "" if outcome == "selected" else "reason")
            writer.writerow(dict(zip(columns, row, strict=True)) | {energy: -0.2, "matches": ""})


def _write_calculations(folder: Path) -> None:
    from pymatgen.core import Structure

    for name, (formula, _, numbers, frac_coords, cell) in PHASES.items():
        result = {"id": name, "status": "converged", "reason": "", "formula": formula, "steps": 31}
        energies = {"energy_per_atom": -8.9, "formation_energy_before": -0.21, "formation_energy": -0.34}
        _write_json(folder / name / "result.json", result | energies | {"wall_seconds": 3.1})
        Structure(cell, numbers, frac_coords).to(str(folder / name / "relaxed.cif"), fmt="cif")
    failed = {"id": "r0-00030", "status": "failed", "reason": "volume exploded", "formula": "Co3Hf2"}
    _write_json(folder / "r0-00030" / "result.json", failed)


def _write_picture(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5))
    figure.add_subplot().plot([0, 0.33, 0.5, 1], [0, -0.3, -0.34, 0], "o-")
    figure.savefig(path)


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


_RANDOM = np.random.default_rng(0)
_ENERGIES = _RANDOM.normal(-0.1, 0.25, 120)
EVALUATION = {
    "reproduction": {
        "train": {"n": 280, "strict": 0.975, "cdvae": 0.982},
        "heldout": {"n": 31, "strict": 0.871, "cdvae": 0.903},
    },
    "constraint": {
        "train": {"n": 100, "mae": 0.041, "r2": 0.98},
        "heldout": {"n": 20, "mae": 0.092, "r2": 0.91},
        "parity": [
            {
                "id": f"s{i}",
                "split": "heldout" if i % 6 == 0 else "train",
                "target": float(energy),
                "predicted": float(energy + _RANDOM.normal(0, 0.05)),
            }
            for i, energy in enumerate(_ENERGIES)
        ],
    },
    "funnel": {"attempts": 40, "valid": 26, "unique": 20, "novel": 14, "selected": 3},
    "invalid_reasons": {"atoms closer than 0.5 A": 12, "cell <cannot> be decoded": 2},
}


def _entry(name: str, role: str, formula: str, group: int, energy: float, above: float) -> dict[str, Any]:
    return {
        "id": name,
        "role": role,
        "formula": formula,
        "x": 0.5,
        "formation_energy_ev_per_atom": energy,
        "e_above_known_hull_ev_per_atom": above,
        "e_above_hull_ev_per_atom": max(above, 0.0),
        "on_hull": above <= 0,
        "spacegroup": group,
        "round": 0,
        "source": "",
    }


HULL = {
    "system": "Co-Hf",
    "elements": ["Co", "Hf"],
    "method": "chgnet-0.3.0-1a2b3c4d",
    "entries": [
        _entry("Co", "element", "Co", 194, 0.0, 0.0),
        _entry("Hf", "element", "Hf", 194, 0.0, 0.0),
        _entry("r0-00007", "candidate", "CoHf", 221, -0.34, -0.012),
        _entry("r0-00012", "candidate", "Co2Hf", 227, -0.31, 0.024),
    ],
    "known_hull": ["Co", "Hf"],
    "hull": ["Co", "Hf", "r0-00007"],
}
SUMMARY = {
    "round": 0,
    "n_training": 311,
    "reproduction_ratio_strict": 0.975,
    "reproduction_ratio_cdvae": 0.982,
    "heldout_reproduction_ratio_strict": 0.871,
    "n_attempts": 40,
    "n_valid": 26,
    "n_unique": 20,
    "n_novel": 14,
    "n_relaxed": 2,
    "mean_abs_delta_ef_ev_per_atom": 0.13,
    "fraction_negative_ef": 1.0,
    "best_e_above_hull_ev_per_atom": 0.0,
    "rediscovered": [
        {"phase": "CoHf 221", "generated": True, "relaxed": True},
        {"phase": "Co2Hf 227", "generated": False, "relaxed": True},
    ],
    "wall_seconds": 371.4,
    "stages": {
        "structures": 80.0,
        "voxelize": 2.5,
        "encode": 1.2,
        "generate": 12.0,
        "screen": 8.0,
        "relax": 60.0,
    },
}
