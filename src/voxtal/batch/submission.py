"""A stage's batch script, filled in for a site, kept in the run directory and handed to Slurm."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from voxtal.batch.scripts import fill, output_in, shipped_files
from voxtal.batch.sites import STAGES, Site, load_site
from voxtal.batch.slurm import check_cluster, submit_chain, submit_job
from voxtal.errors import UserError
from voxtal.runs import atomic_path

_CHOICES = ("MODELS", "PARALLEL")
"""Variables of the batch scripts that say what a job does: the kept script has them as they are now."""


def filled_scripts(stage: str, site: str, run: Path, command: str) -> dict[str, str]:
    """The batch scripts of ``stage`` by name: one, or for ``round`` those of all stages, which its chain submits.

    Parameters
    ----------
    stage, site
        Of :data:`STAGES`, and the name or the path of a site file.
    run
        Run directory.
    command
        Said in the script to have made it.

    Raises
    ------
    UserError
        No such stage or site.
    """
    if stage not in STAGES:
        raise UserError(f"There is no batch script for {stage!r}; there are {', '.join(STAGES)}.")
    values, origin = load_site(site)
    note = f"Filled in by `{command}` with {origin}"
    originals = _originals()
    return {
        name: _filled(originals[name], name, values, run.resolve() / "slurm", note)
        for name in (STAGES if stage == "round" else (stage,))  # the chain submits the others
    }


def submit_stage(stage: str, site: str, run: Path, command: str, options: Sequence[str]) -> tuple[str, Path]:
    """Keep the scripts of a stage in ``run/slurm`` and submit it.

    Returns
    -------
    str
        Number of the job; for ``round`` what its chain said.
    Path
        The script.

    Raises
    ------
    UserError
        No such stage or site, no Slurm, or it refused.
    """
    filled = filled_scripts(stage, site, run, command)
    values, _ = load_site(site)
    for name in filled:
        check_cluster(values.resources(name).partition)
    folder = run.resolve() / "slurm"
    folder.mkdir(exist_ok=True)
    for name, text in {**filled, "_common": _originals()["_common"]}.items():
        _write_script(folder / f"{name}.sh", text)
    script = folder / f"{stage}.sh"
    return (submit_chain if stage == "round" else submit_job)(script, options), script


def _originals() -> Mapping[str, str]:
    return {path.stem: path.read_text() for path in shipped_files("slurm", "*.sh")}


def _filled(script: str, stage: str, site: Site, folder: Path, note: str) -> str:
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
    with atomic_path(path) as temporary:
        temporary.write_text(text)
        temporary.chmod(0o755)
