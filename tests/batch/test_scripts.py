"""Batch scripts with a site's values put in."""

from __future__ import annotations

import subprocess
from pathlib import Path

from voxtal.batch.scripts import fill, output_in

SCRIPT = """#!/usr/bin/env bash
# What it does.
#SBATCH --job-name=voxelize
#SBATCH --ntasks=4
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.out
set -euo pipefail
echo "$WHO in $PLACE"  #SBATCH --time=9
"""


def test_a_site_takes_the_place_of_the_scripts_own_lines() -> None:
    """Of two lines for one option a reader cannot tell which holds; the script's number of tasks would hold on."""
    text = fill(SCRIPT, ["--time=2:00", "--ntasks-per-node=8", "--nodes=2", "--exclusive"], {}, [], "from here")
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert options == [
        "#SBATCH --job-name=voxelize",
        "#SBATCH --output=%x-%j.out",
        "#SBATCH --time=2:00",
        "#SBATCH --ntasks-per-node=8",
        "#SBATCH --nodes=2",
        "#SBATCH --exclusive",
    ]
    assert "# from here" in text
    assert text.startswith("#!/usr/bin/env bash\n# What it does.")


def test_variables_are_filled_in_by_the_job_and_nothing_else_is(tmp_path: Path) -> None:
    """A quote or a back-tick in a site file must not run as a command."""
    values = {"WHO": '"$ME" `touch x` $(touch y) \\', "PLACE": "a b"}
    path = tmp_path / "job.sh"
    path.write_text(fill(SCRIPT, [], values, [], "note"))
    answer = subprocess.run(["bash", path], cwd=tmp_path, env={"ME": "me"}, capture_output=True, text=True, check=True)
    assert answer.stdout == '"me" `touch x` $(touch y) \\ in a b\n'
    assert list(tmp_path.iterdir()) == [path]


def test_modules_are_loaded_first_and_a_missing_one_ends_the_job(tmp_path: Path) -> None:
    """A job without its MPI module would run for hours on ranks that are alone."""
    path = tmp_path / "job.sh"
    path.write_text(fill(SCRIPT, [], {"WHO": "me", "PLACE": "here"}, ["gcc/12", "openmpi"], "note"))
    code = 'module() { echo "module $*"; [ "${ABSENT:-}" != "$2" ]; }; export -f module; bash job.sh'
    there = subprocess.run(["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert there.stdout == "module load gcc/12 openmpi\nme in here\n"
    absent = subprocess.run(
        ["bash", "-c", f"export ABSENT=gcc/12; {code}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (absent.returncode, absent.stdout) == (2, "module load gcc/12 openmpi\n")


def test_output_goes_beside_the_kept_script(tmp_path: Path) -> None:
    """Logs strewn over whatever folder the user was in."""
    assert output_in(Path("/r/slurm"), SCRIPT) == "--output=/r/slurm/%x-%j.out"
    assert output_in(Path("/my run/slurm"), SCRIPT) == '--output="/my run/slurm/%x-%j.out"'
