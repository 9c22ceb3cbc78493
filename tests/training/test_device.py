"""What the processor's memory is used for."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: huge pages would be few, and come with the machine
import resource, torch
from voxtal.training.device import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (1, 20, 50, 200):
        torch.empty(megabytes << 18).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

pages()
given_back = pages()
keep_freed_memory()
for _ in range(4):  # it may have to grow once more
    pages()
print(given_back, pages())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_is_kept_for_the_next_step() -> None:
    """The system would zero the same pages in every step."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 10_000
    assert kept < 100
