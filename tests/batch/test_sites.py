"""Site files: the ones that come with voxtal, a user's own, and messages that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxtal.batch.sites import STAGES, Site, load_site
from voxtal.errors import UserError


def test_every_site_that_comes_with_voxtal_is_right(project_root: Path) -> None:
    """A site file with a typo would fail at its first user."""
    names = {path.stem for path in (project_root / "hpc" / "sites").glob("*.toml")}
    assert names == {"generic", "cpu", "gpu-cluster"}
    for name in names:
        site, path = load_site(name)
        assert path.name == f"{name}.toml"
        assert all(site.resources(stage).walltime for stage in STAGES)


def test_every_stage_has_a_batch_script(project_root: Path) -> None:
    """A stage of the site file without a script, or a script that no site can speak of."""
    scripts = {path.stem for path in (project_root / "slurm").glob("*.sh")} - {"_common"}
    assert scripts == set(STAGES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partion = 'x'", ["'partion'", "'partition'"]),
        ("[stages.train_ccdgan]\nnodes = 2", ["'stages.train_ccdgan'", "'train_ccdcgan'"]),
        ("[stages.relax]\ngpu_per_node = 2", ["'stages.relax.gpu_per_node'", "'gpus_per_node'"]),
        ("walltime = 'a day'", ["walltime", "a day"]),
        ("partition = 'gpu # fast'", ["partition"]),
        ("mpi = 'mpt'", ["mpi", "openmpi"]),
        ("options = ['-C a100']", ["options"]),
        ("[variables]\n'A B' = 'c'", ["variables"]),
        ("nodes = ", ["not valid TOML"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    """A wrong key that is passed over sends a job to the wrong place, hours later."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_site(str(path))
    assert all(word in str(caught.value) for word in [str(path), *words]), caught.value


def test_own_sites_come_before_those_of_voxtal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's file of the same name must win, or it cannot be replaced."""
    for folder, nodes in (("shared", 3), ("config/voxtal/sites", 5)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "cpu.toml").write_text(f"nodes = {nodes}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert load_site("cpu")[0].nodes == 5
    monkeypatch.setenv("VOXTAL_SITES", str(tmp_path / "shared"))
    assert load_site("cpu")[0].nodes == 3
    with pytest.raises(UserError, match="did you mean 'gpu-cluster'"):
        load_site("gpucluster")


def test_a_stage_has_its_own_values_over_those_of_the_site() -> None:
    """Training on one node instead of four, or the last job of a round on four instead of one."""
    site = Site.model_validate(
        {
            "partition": "gpu",
            "nodes": 2,
            "gpus_per_node": 4,
            "options": ["--mem=0"],
            "stages": {
                "train_ccdcgan": {"nodes": 4, "options": ["--exclusive"]},
                "voxelize": {"partition": "cpu", "gpus_per_node": 0},
            },
        }
    )
    train = site.resources("train_ccdcgan").sbatch_options()
    assert train == ["--partition=gpu", "--nodes=4", "--gpus-per-node=4", "--mem=0", "--exclusive"]
    assert site.resources("voxelize").sbatch_options() == ["--partition=cpu", "--nodes=2", "--mem=0"]
    assert "--nodes=1" in site.resources("round").sbatch_options()


def test_the_mpi_flavour_says_what_srun_is_given() -> None:
    """With the wrong one every rank is alone."""
    assert Site(mpi="intelmpi").environment()["SLURM_MPI_TYPE"] == "pmi2"
    assert Site(srun_mpi="pmix_v4", scratch="/s/$USER").environment() == {
        "SLURM_MPI_TYPE": "pmix_v4",
        "TMPDIR": "/s/$USER",
    }
