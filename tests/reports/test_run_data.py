"""What status and report read of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voxtal.config import build_config
from voxtal.reports.run_data import networks_of
from voxtal.runs import Run


def test_networks_are_those_that_training_has_begun_with(tmp_path: Path, tiny: dict[str, Any]) -> None:
    """The constraint of a band gap, or another generator than the GAN, would train unseen by status and report."""
    paths = Run(tmp_path, build_config(tiny)).round(0)
    assert networks_of(paths) == ["constraint", "ccdcgan"]
    for name in ("sites-ae", "flow", "constraint-band_gap"):
        paths.train(name).mkdir(parents=True)
    assert networks_of(paths) == ["constraint", "constraint-band_gap", "flow"]
