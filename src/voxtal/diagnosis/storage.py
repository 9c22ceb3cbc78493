"""The run directory's file system, seen from every rank, and the room there is."""

from __future__ import annotations

import fcntl
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voxtal.diagnosis.findings import Finding, warning, wrong
from voxtal.parallel.communicator import Ranks

SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs", "cifs", "smb3", "pvfs2", "panfs", "afs", "9p"}
IN_MEMORY = {"tmpfs", "ramfs"}
NFS_DELAY_SECONDS = 5.0
"""NFS may remember for some seconds that a file was not there."""


@dataclass(frozen=True)
class Space:
    """Room in one folder."""

    what: str
    path: str
    free_bytes: int
    free_files: int | None
    """None where the file system has no limit."""


@dataclass(frozen=True)
class Storage:
    """What one rank sees."""

    host: str
    rank: int
    folder: str
    file_system: str
    sees_token: bool
    """It has read what rank 0 wrote into the run directory."""
    respects_lock: bool
    """flock refuses it what rank 0 holds."""
    write_error: str
    """Why rank 0 could not write there."""
    spaces: tuple[Space, ...]


def probe(run: Path, ranks: Ranks) -> Storage:
    """Collective: rank 0 writes and locks a file in ``run`` that all others read and try to lock."""
    token, handle, error, name = secrets.token_hex(8), None, "", ""
    if ranks.rank == 0:
        try:
            handle = tempfile.NamedTemporaryFile("w", dir=run, prefix=".voxtal-doctor-", delete=False)  # noqa: SIM115
            name = handle.name
            handle.write(token)
            handle.flush()
            os.fsync(handle.fileno())
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as failure:
            error = failure.strerror or str(failure)
    token, path, error = ranks.bcast((token, name, error))
    try:
        sees = bool(path) and _reads(Path(path), token)
        return Storage(
            host=platform.node(),
            rank=ranks.rank,
            folder=str(run.resolve()),
            file_system=_file_system(run),
            sees_token=sees,
            respects_lock=sees and not error and _is_locked(Path(path)),
            write_error=error,
            spaces=_spaces(run),
        )
    finally:
        for rank in range(ranks.size):  # the lock is held until the last has looked
            ranks.bcast(None, root=rank)
        if handle is not None:
            handle.close()
            Path(name).unlink(missing_ok=True)


def _reads(path: Path, token: str) -> bool:
    until = time.monotonic() + NFS_DELAY_SECONDS
    while True:
        try:
            if path.read_text() == token:
                return True
        except OSError:
            pass
        if time.monotonic() > until:
            return False
        time.sleep(0.2)


def _is_locked(path: Path) -> bool:
    try:
        with open(path, "a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _file_system(folder: Path) -> str:
    """Type of the file system that ``folder`` lies on, empty where it cannot be told."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    real = folder.resolve()
    on_the_way = [(Path(point.replace("\\040", " ")), kind) for point, kind in mounts]
    above = [(len(point.parts), i, kind) for i, (point, kind) in enumerate(on_the_way) if real.is_relative_to(point)]
    return max(above)[2] if above else ""


def _spaces(run: Path) -> tuple[Space, ...]:
    folders = {"run directory": run, "TMPDIR": Path(tempfile.gettempdir()), "/dev/shm": Path("/dev/shm")}
    return tuple(_space(what, path) for what, path in folders.items() if path.is_dir())


def _space(what: str, path: Path) -> Space:
    facts = os.statvfs(path)
    return Space(what, str(path), facts.f_bavail * facts.f_frsize, facts.f_favail if facts.f_files else None)


def judge(ranks: Sequence[Storage], slurm: bool) -> list[Finding]:
    """The run directory and the room; ``slurm``: other nodes will want to see it."""
    return [_judge_run(ranks, slurm), _judge_lock(ranks), *_judge_spaces(ranks)]


def _judge_run(ranks: Sequence[Storage], slurm: bool) -> Finding:
    check, first = "run directory", ranks[0]
    found = f"{first.folder} on {first.file_system or 'an unknown file system'}"
    if first.write_error:
        return wrong(
            check, f"{found}: {first.write_error}", "Give one that exists and that you may write to: --run DIR"
        )
    nodes = {rank.host for rank in ranks}
    blind = sorted({rank.host for rank in ranks if not rank.sees_token})
    if blind:
        return wrong(
            check,
            f"{found} is another one on {', '.join(blind)}",
            "Put the run directory on a file system that all nodes share.",
        )
    if len(nodes) > 1:
        return Finding(check, f"{found}, the same on {len(nodes)} nodes")
    if first.file_system in IN_MEMORY:
        return warning(check, found, "It is gone when this machine restarts: use a disk that lasts.")
    if first.file_system == "overlay":
        return warning(check, found, "It is gone with this container: use a folder that was mounted into it.")
    if slurm and first.file_system not in SHARED:
        return warning(check, found, "Other nodes may not see it: see with srun --nodes=2 voxtal doctor.")
    return Finding(check, found)


def _judge_lock(ranks: Sequence[Storage]) -> Finding:
    check = "file locks"
    if ranks[0].write_error or not all(rank.sees_token for rank in ranks):
        return warning(check, "not tried", "First mend the run directory.")
    loose = sorted({rank.host for rank in ranks if not rank.respects_lock})
    if loose:
        return wrong(
            check,
            f"flock holds nobody off on {', '.join(loose)}",
            "Two commands could write the same files: on Lustre ask for the mount option flock, on NFS for lockd; "
            "or use another file system.",
        )
    return Finding(check, "flock holds other processes off")


_GB = 1e9
_NEEDS = {"run directory": (1 * _GB, 10 * _GB), "TMPDIR": (0.1 * _GB, 1 * _GB), "/dev/shm": (0.01 * _GB, 0.06 * _GB)}
"""Folder -> bytes below which work fails, and below which it may."""
_WHAT_FOR = {
    "run directory": "Voxels and checkpoints go there: make room, or use another folder.",
    "TMPDIR": "Set TMPDIR (the site file's scratch) to a folder with room.",
    "/dev/shm": "Ranks of one node exchange data there: start the container with more (--shm-size), or fewer ranks.",
}
_FEW_FILES = 10_000


def _judge_spaces(ranks: Sequence[Storage]) -> list[Finding]:
    findings = []
    for what, (least, enough) in _NEEDS.items():
        there = [(space, rank.host) for rank in ranks for space in rank.spaces if space.what == what]
        if not there:
            continue
        space, host = min(there, key=lambda item: item[0].free_bytes)
        files = min((s.free_files for s, _ in there if s.free_files is not None), default=None)
        check = f"room in {what}"
        found = f"{_size(space.free_bytes)} free in {space.path} on {host}"
        if files is not None and files < _FEW_FILES:
            findings.append(
                warning(check, f"{found}, only {files} more files", "Delete files, or ask for more inodes.")
            )
        elif space.free_bytes < least:
            findings.append(wrong(check, found, _WHAT_FOR[what]))
        elif space.free_bytes < enough:
            findings.append(warning(check, found, _WHAT_FOR[what]))
        else:
            findings.append(Finding(check, found))
    return findings


def _size(n: float) -> str:
    return f"{n / 1e9:.0f} GB" if n >= 1e10 else f"{n / 1e9:.2g} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"
