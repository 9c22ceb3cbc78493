"""Runs a program whose training steps beyond the tenth take 0.3 s while there is a file $SLOW_WHILE-MODEL."""

import os
import runpy
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is there, as voxtal itself has it (cli/ranks.py)

from voxtal.training import trainer

_step = trainer._seeded_step


def _slow_step(task, index, seed):
    if index >= 10 and os.path.exists(f"{os.environ['SLOW_WHILE']}-{sys.argv[2]}"):  # of PROGRAM train MODEL
        time.sleep(0.3)
    return _step(task, index, seed)


trainer._seeded_step = _slow_step
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
