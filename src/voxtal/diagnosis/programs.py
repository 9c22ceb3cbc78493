"""Asking other programs, which may be missing, broken or slow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """What a program said; ``ok`` only where it ran and ended well."""

    ok: bool
    text: str


def ask(*command: str, seconds: float = PATIENCE_SECONDS) -> Answer:
    """Run a program and take what it prints, or why it could not be run."""
    path = shutil.which(command[0])
    if path is None:
        return Answer(False, f"{command[0]} is not on PATH")
    try:
        done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return Answer(False, f"{command[0]} gave no answer in {seconds:.0f} s")
    except OSError as error:
        return Answer(False, f"{path}: {error.strerror}")
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return Answer(False, said[-1] if said else f"{command[0]} ended with exit code {done.returncode}")
    return Answer(True, done.stdout.strip())


def ask_python(code: str, seconds: float = PATIENCE_SECONDS) -> Answer:
    """Run ``code`` in a Python of its own: a library that crashes as it is loaded takes only that with it."""
    return ask(sys.executable, "-c", code, seconds=seconds)
