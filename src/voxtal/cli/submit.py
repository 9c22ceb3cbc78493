"""``voxtal submit STAGE``: a stage's batch script, filled in for a site and handed to Slurm."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from voxtal.cli.common import RunOption, open_run


def submit(
    stage: Annotated[str, typer.Argument(help="voxelize, train_ccdcgan, train_icsg3d, generate, relax or round.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- SBATCH_OPTION...]", help="Handed to sbatch; they have the last word."),
    ] = None,
    run: RunOption = Path(),
    site: Annotated[
        str, typer.Option(metavar="NAME", help="generic, cpu, gpu-cluster, a site file of your own, or its path.")
    ] = "generic",
    show: Annotated[bool, typer.Option("--print", help="Print the filled script; write and submit nothing.")] = False,
) -> None:
    """Submit a stage's batch script to Slurm, with the values of a site file put in; round is the chain of all stages.

    The script that was submitted is kept in RUN/slurm/, beside the output of its job. Site files of your own are
    looked for in $VOXTAL_SITES and ~/.config/voxtal/sites.

    Example: voxtal submit train_ccdcgan --site gpu-cluster --run runs/co-hf -- --nodes=4
    """
    from voxtal.batch.submission import filled_scripts, submit_stage

    opened = open_run(run)
    command = shlex.join(
        ["voxtal", "submit", stage, "--site", site, "--run", str(run), *(["--", *options] if options else [])]
    )
    if show:
        filled = filled_scripts(stage, site, opened.root, command)
        folder = opened.root.resolve() / "slurm"
        for name, text in filled.items():
            print(f"==> {folder / name}.sh <==\n{text}" if len(filled) > 1 else text, end="")
        return
    job, script = submit_stage(stage, site, opened.root, command, options or [])
    if stage == "round":
        print(job)
    else:
        print(f"Submitted {stage} as job {job}: {script}")
        print(f"Next: `squeue -j {job}`, its output in {script.parent}, and `voxtal status --run {run}`.")
