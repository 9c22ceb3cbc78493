"""Versions of Python, voxtal and the libraries, the same on every rank."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import voxtal
from voxtal.diagnosis.findings import Finding, wrong

LIBRARIES = ("numpy", "h5py", "torch")


@dataclass(frozen=True)
class Software:
    """What one rank runs."""

    host: str
    python: str
    prefix: str
    voxtal: str
    folder: str
    libraries: dict[str, str]
    """Name -> version; empty where it is not installed."""


def probe() -> Software:
    return Software(
        host=platform.node(),
        python=platform.python_version(),
        prefix=sys.prefix,
        voxtal=voxtal.__version__,
        folder=str(Path(voxtal.__file__).parent),
        libraries={name: _version(name) for name in LIBRARIES},
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def judge(ranks: Sequence[Software]) -> list[Finding]:
    """Rank 0's versions, and which ranks differ from it."""
    first = ranks[0]
    findings = [
        Finding("Python", f"{first.python} in {first.prefix}"),
        Finding("voxtal", f"{first.voxtal} in {first.folder}"),
    ]
    for name, version in first.libraries.items():
        findings.append(
            Finding(name, version)
            if version
            else wrong(name, "not installed", f"Install voxtal again: {first.prefix}/bin/pip install voxtal")
        )
    return findings + [finding for rank in ranks[1:] for finding in _differences(first, rank)][:1]


def _differences(first: Software, other: Software) -> list[Finding]:
    theirs = {"Python": other.python, "voxtal": other.voxtal, **other.libraries}
    ours = {"Python": first.python, "voxtal": first.voxtal, **first.libraries}
    unlike = [f"{name} {theirs[name]} (rank 0: {ours[name]})" for name in ours if theirs[name] != ours[name]]
    if not unlike:
        return []
    return [
        wrong(
            "same everywhere",
            f"{other.host} has {', '.join(unlike)}",
            "Use one environment on a file system that all nodes share.",
        )
    ]
