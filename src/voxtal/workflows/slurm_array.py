"""Calculations over the tasks of a Slurm array, which take them from the ledger, where their results come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from voxtal.batch.slurm import states_of
from voxtal.batch.submission import submit_stage
from voxtal.config import CONFIG_NAME
from voxtal.errors import UserError
from voxtal.ledger import Calculation, Ledger
from voxtal.runs import atomic_path
from voxtal.workflows.jobs import Finished, refuse_engines

POLL_SECONDS = 5.0
"""How often the ledger is looked at while the array is at work."""
_OPEN = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
MAX_FRUITLESS = 3
"""Arrays that may end one after the other with nothing calculated."""


class SlurmArray:
    """Backend: an array of tasks that each run ``voxtal relax --queue``, submitted again while work is left.

    Parameters
    ----------
    run : Path
        Run directory, which every node sees.
    tasks : int
        Of the array; each takes one calculation after the other.
    cores : int
        Of each calculation.
    site : str
        Site file that the batch script is filled in with.
    """

    def __init__(self, run: Path, tasks: int, cores: int, site: str) -> None:
        self.run_directory, self.tasks, self.cores, self.site = run, tasks, cores, site

    def run(
        self, calculations: Sequence[Calculation], ledger: Ledger, finished: Finished, enough: Callable[[], bool]
    ) -> None:
        """Let them wait in the ledger, have an array work at them, and tell of each that has ended.

        An array that was submitted by an earlier call and still runs is waited for, so this may be interrupted.

        Raises
        ------
        UserError
            Slurm refused the array, or arrays end with nothing calculated.
        """
        if not (self.run_directory / CONFIG_NAME).is_file():
            raise UserError(
                f'relax.backend = "slurm-array" needs {self.run_directory / CONFIG_NAME}: the tasks read it. '
                "Write the settings into it."
            )
        refuse_engines(calculations, ledger)
        ledger.enqueue(calculations)
        open_keys = [calculation.key for calculation in calculations]
        fruitless, ended_before = -1, -1
        while not enough():
            still_open = []
            for key in open_keys:
                row = ledger.result(key)
                if row is None:
                    still_open.append(key)
                else:
                    finished(key, row)
            open_keys = still_open
            if not open_keys or enough():
                return
            if not self._at_work():
                ledger.revive()
                fruitless = fruitless + 1 if len(open_keys) == ended_before else 0
                ended_before = len(open_keys)
                self._refuse_to_try_for_ever(fruitless)
                self._submit(len(open_keys))
            time.sleep(POLL_SECONDS)

    def _submit(self, calculations: int) -> None:
        tasks = min(self.tasks, calculations)
        options = [f"--array=0-{tasks - 1}", f"--cpus-per-task={self.cores}"]
        job, _ = submit_stage("relax", self.site, self.run_directory, "voxtal (relax.backend = slurm-array)", options)
        with atomic_path(self._job_file) as temporary:
            temporary.write_text(f"{job}\n")

    @property
    def _job_file(self) -> Path:
        return self.run_directory / "slurm" / "relax.job"

    def _at_work(self) -> bool:
        """Whether the last array has tasks that run or wait to."""
        if not self._job_file.is_file():
            return False
        states = states_of(self._job_file.read_text().strip())
        return states is None or any(state in _OPEN for state in states)  # Slurm may be away: ask again later

    def _refuse_to_try_for_ever(self, fruitless: int) -> None:
        if fruitless >= MAX_FRUITLESS:
            outputs = sorted(self._job_file.parent.glob("relax-*.out"), key=lambda path: path.stat().st_mtime)
            last = outputs[-1].read_text().splitlines()[-5:] if outputs else ["(no output)"]
            raise UserError(
                f"{fruitless} array jobs have ended and calculated nothing. The end of the last output in "
                f"{self._job_file.parent}:\n" + "\n".join(last) + "\nMend it and run the same command again."
            )
