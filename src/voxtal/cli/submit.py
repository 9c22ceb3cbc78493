"""``voxtal submit STAGE``: a stage's batch script, filled in for a site and handed to Slurm."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import RunOption, open_run
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.batch.sites import Site


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
    from voxtal.batch.scripts import shipped_files
    from voxtal.batch.sites import STAGES, load_site
    from voxtal.batch.slurm import check_cluster, submit_chain, submit_job

    if stage not in STAGES:
        raise UserError(f"There is no batch script for {stage!r}; there are {', '.join(STAGES)}.")
    opened = open_run(run)
    values, origin = load_site(site)
    stages = STAGES if stage == "round" else (stage,)  # the chain submits the others
    folder = opened.root.resolve() / "slurm"
    command = ["voxtal", "submit", stage, "--site", site, "--run", str(run), *(["--", *options] if options else [])]
    note = f"Filled in by `{shlex.join(command)}` with {origin}"
    originals = {path.stem: path.read_text() for path in shipped_files("slurm", "*.sh")}
    filled = {name: _filled(originals[name], name, values, folder, note) for name in stages}
    if show:
        for name, text in filled.items():
            print(f"==> {folder / name}.sh <==\n{text}" if len(filled) > 1 else text, end="")
        return

    for name in stages:
        check_cluster(values.resources(name).partition)
    folder.mkdir(exist_ok=True)
    for name, text in {**filled, "_common": originals["_common"]}.items():
        _write_script(folder / f"{name}.sh", text)
    script = folder / f"{stage}.sh"
    if stage == "round":
        print(submit_chain(script, options or []))
    else:
        job = submit_job(script, options or [])
        print(f"Submitted {stage} as job {job}: {script}")
        print(f"Next: `squeue -j {job}`, its output in {folder}, and `voxtal status --run {run}`.")


_CHOICES = ("MODELS", "PARALLEL")
"""Variables of the batch scripts that say what a job does: the kept script has them as they are now."""


def _filled(script: str, stage: str, site: Site, folder: Path, note: str) -> str:
    from voxtal.batch.scripts import fill, output_in

    options = [output_in(folder, script), *site.resources(stage).sbatch_options()]
    run = folder.parent  # it holds slurm/, all that the scripts look for in the project's folder
    environment = {"RUN": str(run), "VOXTAL_ROOT": str(run), **_environment_in_use(site), **site.environment()}
    environment |= {name: os.environ[name] for name in _CHOICES if name in os.environ}
    return fill(script, options, environment, site.modules, note)


def _environment_in_use(site: Site) -> dict[str, str]:
    """What the job's shell sources: the site's choice, else the virtual environment that this runs in."""
    if site.source is None:
        activate = Path(sys.prefix) / "bin" / "activate"
        return {"VOXTAL_ENV": sys.prefix} if activate.is_file() else {}
    if "$" not in site.source and not Path(site.source).exists():
        raise UserError(f"The site file's source = {site.source!r} does not exist; name a file or an environment.")
    return {"VOXTAL_ENV": site.source}


def _write_script(path: Path, text: str) -> None:
    from voxtal.runs import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text)
        temporary.chmod(0o755)
