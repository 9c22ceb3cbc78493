"""Many structures of different sizes in flat arrays: the entries of one stand between two offsets."""

from __future__ import annotations

import numpy as np


def offsets_of(counts: np.ndarray) -> np.ndarray:
    """(n + 1,) int64: entry i has the places ``offsets[i]:offsets[i + 1]`` when it has ``counts[i]``."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def counted(counts: np.ndarray) -> np.ndarray:
    """(sum,) int64: 0 to ``counts[i] - 1`` for every i, one after the other."""
    starts = offsets_of(counts)
    return np.arange(starts[-1]) - np.repeat(starts[:-1], counts)


def entries_of(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Places of all entries of ``rows``, in that order."""
    counts = np.diff(offsets)[rows]
    return np.repeat(offsets[rows], counts) + counted(counts)
