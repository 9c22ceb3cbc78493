"""The batch scripts of ``slurm/``: where they lie, and how one is filled in for a site."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import voxtal
from voxtal.errors import UserError


def shipped_files(folder: str, pattern: str) -> list[Path]:
    """Files of the project's ``folder``: of the checkout that voxtal runs from, else those that its wheel brought.

    Raises
    ------
    UserError
        There are none: the installation is not whole.
    """
    checkout = Path(voxtal.__file__).resolve().parents[2]
    if (checkout / "setup.cfg").is_file():
        found = list((checkout / folder).glob(pattern))
    else:
        installed = metadata.files("voxtal") or []
        found = [
            Path(str(file.locate())).resolve() for file in installed if file.match(f"share/voxtal/{folder}/{pattern}")
        ]
    if not found:
        raise UserError(f"This installation of voxtal has no {folder}/{pattern}; install it again, or from a checkout.")
    return sorted(found)


def fill(script: str, options: Sequence[str], environment: Mapping[str, str], modules: Sequence[str], note: str) -> str:
    """A batch script with a site's values put in.

    Parameters
    ----------
    script
        Text of the batch script.
    options
        Options of sbatch, each ``--name=value`` or ``--name``; each takes the place of the script's own lines.
    environment
        Variables that the job sets first; ``$NAME`` in their values is filled in by the job.
    modules
        Environment modules that it loads before.
    note
        Where the values come from, for who reads the script.
    """
    lines = script.splitlines()
    end = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    given = {_name(option) for option in options}
    if "--ntasks-per-node" in given:
        given.add("--ntasks")  # the script's number would hold against nodes times tasks
    header = [line for line in lines[:end] if not (line.startswith("#SBATCH") and _name(line.split()[1]) in given)]
    while header and not header[-1].strip():
        header.pop()
    site = [f"#SBATCH {option}" for option in options]
    settings = [*_load(modules), *(f"export {name}={_quoted(value)}" for name, value in environment.items())]
    if "TMPDIR" in environment:
        settings.append('mkdir -p "$TMPDIR" || exit 2')
    return "\n".join([*header, f"# {note}", *site, *settings, "", *lines[end:]]) + "\n"


def output_in(folder: Path, script: str) -> str:
    """The script's own ``--output``, in ``folder``."""
    match = re.search(r"^#SBATCH --output=(\S+)", script, re.MULTILINE)
    path = str(folder / (match[1] if match else "%x-%j.out"))
    return f'--output="{path}"' if re.search(r"\s", path) else f"--output={path}"


def _name(option: str) -> str:
    return option.partition("=")[0]


def _load(modules: Sequence[str]) -> list[str]:
    if not modules:
        return []
    # a shell that is no login shell may not know `module`
    return ["type module >/dev/null 2>&1 || . /etc/profile", f"module load {shlex.join(modules)} || exit 2"]


def _quoted(value: str) -> str:
    """In double quotes, so that variables are filled in and nothing else is."""
    return '"' + re.sub(r'(["\\`]|\$\()', r"\\\1", value) + '"'
