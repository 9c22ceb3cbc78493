"""Site files: what one cluster wants its batch jobs to say (``hpc/sites/*.toml``)."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from voxtal.batch.scripts import shipped_files
from voxtal.config import explain, read_toml
from voxtal.errors import UserError

Word = Annotated[str, StringConstraints(pattern=r"^[^\s#]+$")]
"""Goes into a ``#SBATCH`` line: a space would end it there."""

Walltime = Annotated[str, StringConstraints(pattern=r"^(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}|UNLIMITED)$")]
"""As Slurm reads it: minutes, ``MM:SS``, ``HH:MM:SS`` or ``D-HH[:MM[:SS]]``."""

VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Table):
    """What a job asks of Slurm. A key that is not given leaves the batch script's own line, or Slurm's default."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    nodes: int | None = Field(default=None, ge=1)
    tasks_per_node: int | None = Field(default=None, ge=1)
    cpus_per_task: int | None = Field(default=None, ge=1)
    gpus_per_node: int | None = Field(default=None, ge=0)
    walltime: Walltime | None = None
    options: tuple[Annotated[str, StringConstraints(pattern=r"^--[a-z][a-z-]*(=[^\s#]+)?$")], ...] = ()
    """Any other options of sbatch, such as ``--constraint=a100``; a stage's are added to the site's."""

    def sbatch_options(self) -> list[str]:
        """As sbatch takes them, ``--name=value`` each."""
        values = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus_per_node or None,
            "time": self.walltime,
        }
        return [*(f"--{name}={value}" for name, value in values.items() if value is not None), *self.options]


class OneProcess(Resources):
    """Of a stage that works as one process: the site's nodes and tasks are not for it."""

    nodes: int | None = Field(default=1, ge=1)
    tasks_per_node: int | None = Field(default=1, ge=1)


class Stages(_Table):
    """One stage's own resources."""

    voxelize: Resources = Resources()
    train_ccdcgan: Resources = Resources()
    train_icsg3d: Resources = Resources()
    generate: Resources = Resources()
    relax: OneProcess = OneProcess()
    round: OneProcess = OneProcess()


class Site(Resources):
    """All of a site file."""

    modules: tuple[Word, ...] = ()
    """Loaded in this order."""
    source: str | None = None
    """A file to source, or a virtual environment; without one, the environment that submits is used."""
    mpi: Literal["openmpi", "mpich", "intelmpi"] = "openmpi"
    srun_mpi: Word | None = None
    """What ``srun --mpi`` wants (``srun --mpi=list``); follows from ``mpi`` if not given."""
    scratch: str | None = None
    """Folder for temporary files (TMPDIR)."""
    variables: dict[VariableName, str] = {}
    """Environment variables of every job."""
    stages: Stages = Stages()

    def resources(self, stage: str) -> Resources:
        """The site's resources with the stage's own over them."""
        own: Resources = getattr(self.stages, stage)
        names = Resources.model_fields.keys()
        both = {name: getattr(self, name) for name in names} | own.model_dump(exclude_none=True)
        return Resources(**{**both, "options": (*self.options, *own.options)})

    def environment(self) -> dict[str, str]:
        """Environment variables of every job, the site's own last."""
        out = {"SLURM_MPI_TYPE": self.srun_mpi or _SRUN_MPI[self.mpi]}
        if self.scratch:
            out["TMPDIR"] = self.scratch
        return out | self.variables


STAGES = tuple(Stages.model_fields)
_SRUN_MPI = {"openmpi": "pmix", "mpich": "pmi2", "intelmpi": "pmi2"}


def load_site(name: str) -> tuple[Site, Path]:
    """Find and read a site file.

    Parameters
    ----------
    name
        A path to a TOML file, or the name of one in a folder of ``$VOXTAL_SITES``, in
        ``~/.config/voxtal/sites``, or of those that come with voxtal.

    Raises
    ------
    UserError
        No such site, not TOML, an unknown key (named with the nearest right one) or a wrong value.
    """
    path = _find(name)
    try:
        return Site.model_validate(read_toml(path)), path
    except ValidationError as error:
        raise UserError(explain(error, Site, str(path))) from None


def _find(name: str) -> Path:
    if name.endswith(".toml") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"--site {name}: there is no such file.")
        return path.resolve()
    known = _known_sites()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"known sites: {', '.join(sorted(known))}."
        raise UserError(
            f"--site {name}: unknown; {advice} A file of your own can be named by its path, or lie in {_own_folder()}."
        )
    return known[name]


def _known_sites() -> dict[str, Path]:
    folders = [Path(folder) for folder in os.environ.get("VOXTAL_SITES", "").split(":") if folder]
    own = [path for folder in (*folders, _own_folder()) for path in sorted(folder.glob("*.toml"))]
    out: dict[str, Path] = {}
    for path in (*own, *shipped_files("hpc/sites", "*.toml")):
        out.setdefault(path.stem, path)
    return out


def _own_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "voxtal" / "sites"
