"""Calculators that leave something behind (a dead process, a running program), and one that waits to be let go."""

import os
import signal
import subprocess
import time

from voxtal.calculators.base import Calculator, Method
from voxtal.calculators.emt import EMTCalculator


class Crashing(Calculator):
    """Its process dies of every structure, as by a segmentation fault."""

    @property
    def method(self):
        return Method(code="crash", version="1", model="none")

    def relax(self, structure, settings, folder=None):
        os.kill(os.getpid(), signal.SIGKILL)


class Raising(Crashing):
    """It has a bug."""

    def relax(self, structure, settings, folder=None):
        raise RuntimeError("no such orbital")


class Starting(Crashing):
    """It waits for a program that takes for ever."""

    keeps_files = True

    def relax(self, structure, settings, folder=None):
        folder.mkdir(parents=True)
        with subprocess.Popen(["sleep", "1000"]) as program:
            (folder / "pid").write_text(str(program.pid))


class Held(EMTCalculator):
    """EMT, but a structure of more than four atoms waits while the file $HELD is there."""

    def relax(self, structure, settings, folder=None):
        while len(structure) > 4 and os.path.exists(os.environ["HELD"]):
            time.sleep(0.02)
        return super().relax(structure, settings, folder)
