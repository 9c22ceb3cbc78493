"""Checkpoints: written aside and renamed, the previous one kept, unreadable ones passed over."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from voxtal.errors import UserError
from voxtal.runs import atomic_path

_KEPT = 2
_NAME = re.compile(r"step-(\d{8})\.pt")
_DAMAGED = (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError)


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write ``state`` as the checkpoint after ``step`` steps and remove all but the two newest."""
    path = folder / f"step-{step:08d}.pt"
    save(path, {"step": step, **state})
    for old in _checkpoints(folder)[:-_KEPT]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that can be read and is whole, or None."""
    for path in reversed(_checkpoints(folder)):
        try:
            return _read(path)
        except _DAMAGED:
            path.rename(path.with_suffix(".unreadable"))
    return None


def save(path: Path, state: Mapping[str, Any]) -> None:
    """``torch.save`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)


def load(path: Path, made_by: str) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises
    ------
    UserError
        There is no such file, or it is damaged; ``made_by`` names the command that makes it.
    """
    if not path.is_file():
        raise UserError(f"No trained model at {path}; make it with `{made_by}`.")
    try:
        return _read(path)
    except _DAMAGED as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run `{made_by}`.") from None


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums of the records
        if (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{damaged} in it is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
