"""Why a structure has no voxels, or voxels no structure: ``str(error)`` is the reason that gets recorded."""

from __future__ import annotations


class Unencodable(ValueError):
    """The structure cannot be represented."""


class Undecodable(ValueError):
    """The arrays hold no structure."""
