"""A calculator that is still at work for as long as a test wants."""

import os
import time
from pathlib import Path

from voxtal.calculators.emt import EMTCalculator


class Waiting(EMTCalculator):
    """EMT; after six structures it waits for as long as the file $WAIT_WHILE is there."""

    def relax(self, structure, settings, folder=None):
        wait = Path(os.environ["WAIT_WHILE"])
        while wait.exists() and len(list(wait.parent.glob("done-*"))) >= 6:
            time.sleep(0.05)
        result = super().relax(structure, settings, folder)
        wait.with_name(f"done-{os.getpid()}-{time.monotonic_ns()}").touch()
        return result
