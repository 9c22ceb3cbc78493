"""Calculators that leave something behind: a dead process, a running program."""

import os
import signal
import subprocess

from voxtal.calculators.base import Calculator, Method


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
