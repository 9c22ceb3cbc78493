"""A run directory: where things lie, how they are written whole, and who is at work in it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import voxtal
from voxtal.config import CONFIG_NAME, Config
from voxtal.errors import InUse, UserError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; rename it over ``target`` when the block ends well.

    A kill at any instant leaves either the old file or the new one, never half of one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    except OSError as error:
        error.filename = error.filename or str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def safe_name(id: str) -> str:
    """``id`` as the name of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", id)


def write_json(target: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the order given. Infinities and NaN become null."""
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run the stage again.") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@dataclass(frozen=True)
class RoundPaths:
    """Names of the files of one round (a contract: see docs/conventions.md)."""

    root: Path
    index: int
    attempts: Path | None = None
    """Folder of the attempts, where it is not the round's own: a model that is only read."""

    @property
    def structures(self) -> Path:
        return self.root / "structures.h5"

    @property
    def voxels(self) -> Path:
        return self.root / "voxels"

    @property
    def density(self) -> Path:
        return self.root / "density"

    def train(self, model: str) -> Path:
        return self.root / "train" / model

    @property
    def graphs(self) -> Path:
        return self.root / "encode" / "graphs.h5"

    @property
    def candidates(self) -> Path:
        return (self.attempts or self.root / "generate") / "candidates.h5"

    @property
    def screen(self) -> Path:
        return self.root / "screen"

    @property
    def evaluation(self) -> Path:
        return self.root / "screen" / "evaluation.json"

    @property
    def relax(self) -> Path:
        return self.root / "relax"

    @property
    def hull(self) -> Path:
        return self.root / "hull" / "hull.json"

    @property
    def report(self) -> Path:
        return self.root / "report"

    @property
    def summary(self) -> Path:
        return self.root / "report" / "summary.json"


@dataclass(frozen=True)
class Run:
    """An opened run directory and its configuration."""

    root: Path
    config: Config

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.sqlite"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    def round(self, index: int) -> RoundPaths:
        return RoundPaths(self.root / f"round-{index:03d}", index)

    def rounds(self) -> list[RoundPaths]:
        """All rounds on disk, first to last."""
        found = sorted(self.root.glob("round-[0-9][0-9][0-9]"))
        return [RoundPaths(path, int(path.name[-3:])) for path in found if path.is_dir()]

    def latest_round(self) -> RoundPaths:
        """The newest round that has structures, or round 0 where there is none yet."""
        ready = [paths for paths in self.rounds() if paths.structures.is_file()]
        return ready[-1] if ready else self.round(0)


@contextmanager
def exclusive(root: Path, what: str) -> Iterator[None]:
    """Hold ``root`` against a second writer; the operating system lets go when the process dies.

    Raises
    ------
    InUse
        Another process is at work there; the message names it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "another process"
            raise InUse(f"{root} is in use by {owner}; wait for it or stop it, then run {what} again.") from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"{what} (pid {os.getpid()} on {platform.node()})\n")
        handle.flush()
        yield


def append_manifest(run: Run, command: str, **facts: Any) -> None:
    """Record one command in ``manifest.json``: versions, git revision, seed, world size, Slurm id, inputs."""
    manifest = read_json(run.manifest) if run.manifest.is_file() else {"commands": []}
    entry = {
        "command": command,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "voxtal": voxtal.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "host": platform.node(),
        "seed": run.config.seed,
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "argv": sys.argv[1:],
        "config_sha256": sha256_of(run.root / CONFIG_NAME) if (run.root / CONFIG_NAME).is_file() else None,
        **facts,
    }
    manifest["commands"].append(entry)
    write_json(run.manifest, manifest)


def git_revision() -> str | None:
    """Revision of the source tree that voxtal runs from; none for an installed wheel."""
    if shutil.which("git") is None:
        return None
    here = Path(voxtal.__file__).parent
    answer = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
