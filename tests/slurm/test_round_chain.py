"""``slurm/round.sh``: a whole round as a chain of jobs, with an array that relaxes."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from voxtal.config import build_config, write_config
from voxtal.runs import Run, read_json
from voxtal.structures.structure_set import StructureSet
from voxtal.training.stages import models_of
from voxtal.training.trainer import is_whole

from .conftest import Cluster

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("generator", ["ccdcgan", "icsg3d"])
def test_chain_runs_through_and_the_array_shares_the_candidates(
    generator: str,
    cluster: Cluster,
    tmp_path: Path,
    tiny: dict[str, Any],
    maps_tree: dict[str, Any],
    copper_gold: list[Any],
    golden_cubes: list[Any],
) -> None:
    """A stage would start before the one that it reads from, or candidates would be relaxed twice or not at all."""
    entries: list[dict[str, Any]] = [structure.as_dict() for structure in copper_gold]
    tree, more = tiny, {"source": "given.json"}
    if generator == "icsg3d":  # labels made up: EMT would relax the stretched cubes into each other
        entries = [{"structure": s.as_dict(), "formation_energy": -0.02 * i} for i, s in enumerate(golden_cubes)]
        tree, more = maps_tree, more | {"labels": "source", "split": "random"}
    tree |= {"structures": tree["structures"] | more, "screen": {"select": 8, "min_contact": 0.1}}
    tree["train"]["sites_ae"]["steps"] = 60
    (tmp_path / "given.json").write_text(json.dumps(entries))
    write_config(tmp_path / "voxtal.toml", tree)
    run = Run(tmp_path, build_config(tree))
    script = cluster.script.parents[2] / "slurm" / "round.sh"
    said = cluster.call(script, "--comment=chain", cwd=tmp_path, PARALLEL="none")
    jobs = [word.rstrip(";") for word in said.split() if word.rstrip(";").isdigit()]
    assert len(jobs) == 6
    assert all(cluster.job(job)["Comment"] == "chain" for job in jobs)
    state = cluster.finish(jobs[-1], 1200)
    logs = "\n".join(f"{path.name}:\n{path.read_text()}" for path in sorted(tmp_path.glob("*.out")))
    assert state == "COMPLETED", logs
    assert {cluster.state(job) for job in jobs} == {"COMPLETED"}
    assert len(list(tmp_path.glob("relax-*_*.out"))) == 4

    paths = run.round(0)
    selected = StructureSet.read(paths.screen / "selected.h5")
    assert all(is_whole(paths.train(model)) for model in models_of(run, paths))
    summary = read_json(paths.summary)
    assert summary["n_selected"] == len(selected) > 1
    with sqlite3.connect(run.ledger) as ledger:
        rows = ledger.execute("SELECT status, attempts, owner FROM calculations WHERE purpose = 'candidate'").fetchall()
    assert len(rows) == len(selected)
    assert {attempts for _, attempts, _ in rows} == {1}
    assert {owner.split(":")[0] for _, _, owner in rows} <= {"n1", "n2"}
    assert "Relaxed here: " in logs
    assert (run.round(1).structures).is_file()


def test_chain_ends_where_a_job_fails(cluster: Cluster, trained_run: Run) -> None:
    """Jobs that can never start would stay in the queue, or a stage would run on what is not there."""
    trained_run.round(0).structures.write_text("no structures")
    script = cluster.script.parents[2] / "slurm" / "round.sh"
    said = cluster.call(script, cwd=trained_run.root)
    jobs = [word.rstrip(";") for word in said.split() if word.rstrip(";").isdigit()]
    assert len(jobs) == 5
    assert cluster.finish(jobs[0]) == "FAILED"
    assert {cluster.finish(job) for job in jobs[1:]} == {"CANCELLED"}


def test_wrong_run_directory_is_told_before_anything_is_submitted(cluster: Cluster, tmp_path: Path) -> None:
    """Six jobs would fail one after the other."""
    script = cluster.script.parents[2] / "slurm" / "round.sh"
    with pytest.raises(AssertionError, match=r"holds no voxtal\.toml"):
        cluster.call(script, cwd=tmp_path)
