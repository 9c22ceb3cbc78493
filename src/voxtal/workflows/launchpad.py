"""Calculations as FireWorks workflows: put on a LaunchPad, run by rlaunch or qlaunch, taken in from jobflow's store."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from voxtal.errors import UserError
from voxtal.ledger import Calculation, Ledger
from voxtal.owners import ENGINE, of_engine
from voxtal.structures.text import structure_from_text
from voxtal.workflows.jobs import Finished
from voxtal.workflows.plain import settings_from_text, spec_from_text

POLL_SECONDS = 5.0
"""How often the LaunchPad is asked."""
LOST_RUNS_EVERY_SECONDS = 600.0
"""How often it is asked for rockets that have stopped to beat; they are run again."""

_KEY, _JOB = "voxtal_key", "voxtal_job"
"""In the metadata of a workflow: the ledger's key, and the jobflow job whose output is the result."""
_ENDED = ("COMPLETED", "FIZZLED", "DEFUSED", "ARCHIVED")


class FireWorks:
    """Backend: a workflow for each calculation; whoever runs ``rlaunch`` or ``qlaunch`` on the LaunchPad does the work.

    Without a MongoDB (``MONGOMOCK_SERVERSTORE_FILE``) this process runs them itself, one after the other.

    Parameters
    ----------
    launchpad : str, optional
        File that describes the LaunchPad; FireWorks' own configuration if not given.

    Raises
    ------
    UserError
        FireWorks is not installed, the LaunchPad cannot be reached, or jobflow's store is in memory only.
    """

    def __init__(self, launchpad: str | None) -> None:
        try:
            from fireworks import LaunchPad
        except ImportError:
            raise UserError('relax.backend = "fireworks" needs FireWorks: pip install "voxtal[fireworks]".') from None
        from jobflow import SETTINGS

        if launchpad is not None and not Path(launchpad).is_file():
            raise UserError(f"relax.launchpad = {launchpad!r}: no such file.")
        self._mock = os.environ.get("MONGOMOCK_SERVERSTORE_FILE")
        self._store = SETTINGS.JOB_STORE
        self._in_memory = type(self._store.docs_store).__name__ == "MemoryStore"
        if self._in_memory and not self._mock:
            raise UserError(
                "jobflow's JOB_STORE is in memory, so results of other processes could not come back; "
                "name a MongoDB in a file and that file in JOBFLOW_CONFIG_FILE (docs/running-calculations.md)."
            )
        try:
            self._pad = LaunchPad.from_file(launchpad) if launchpad else LaunchPad.auto_load()
            fresh = self._pad.fw_id_assigner.find_one() is None
            self._store.connect()
        except Exception as error:  # pymongo's many ways to say that nobody answers
            raise UserError(
                f"The LaunchPad cannot be reached ({str(error).splitlines()[0][:200]}). Check its file and that its "
                "MongoDB runs; `lpad get_wflows` must work from here."
            ) from None
        if fresh and not self._mock:
            raise UserError("The LaunchPad is new; prepare it once with `lpad reset`.")
        if fresh:
            self._pad.reset("", require_password=False)

    def run(
        self, calculations: Sequence[Calculation], ledger: Ledger, finished: Finished, enough: Callable[[], bool]
    ) -> None:
        """Put on the LaunchPad what is not there yet, and take in what has ended until all has.

        Workflows outlive this process: the next call looks at those of the last one.
        """
        with _alone(self._mock):
            if self._in_memory:  # results must outlive this process
                self._store = _file_store(ledger.path.parent / "fireworks")
            self._add(calculations, ledger)
            wanted = {calculation.key for calculation in calculations}
            looked_for_lost = time.monotonic()
            while not enough():
                jobs = {owner.split(":")[2]: key for key, owner in ledger.owned(f"{ENGINE}:").items() if key in wanted}
                self._take_in(jobs, ledger)
                for key in sorted(wanted):
                    row = ledger.result(key)
                    if row is not None:
                        wanted.discard(key)
                        finished(key, row)
                if not wanted:
                    return
                if time.monotonic() - looked_for_lost >= LOST_RUNS_EVERY_SECONDS:
                    looked_for_lost = time.monotonic()
                    self._pad.detect_lostruns(rerun=True)
                if not (self._mock and self._launch_one(ledger.path.parent)):
                    time.sleep(POLL_SECONDS)

    def _add(self, calculations: Sequence[Calculation], ledger: Ledger) -> None:
        """Make workflows of those that have none. One that a killed call added is found by its key and kept."""
        there_already = ledger.owned(f"{ENGINE}:")
        with ledger.batch():
            ours = [c for c in calculations if c.key not in there_already and ledger.claim(c) == "ours"]
        there = {
            workflow["metadata"][_KEY]: workflow["metadata"][_JOB]
            for workflow in self._pad.workflows.find(
                {f"metadata.{_KEY}": {"$in": [c.key for c in ours]}, "state": {"$nin": ["FIZZLED", "ARCHIVED"]}},
                {"metadata": 1},
            )
        }
        for calculation in ours:
            if calculation.key not in there:
                workflow, job = _workflow(calculation, self._store)
                self._pad.add_wf(workflow)
                there[calculation.key] = job
        with ledger.batch():
            for calculation in ours:
                ledger.hand_over(calculation.key, of_engine(there[calculation.key]))

    def _take_in(self, jobs: dict[str, str], ledger: Ledger) -> None:
        """Record the workflows that have ended; ``jobs`` is jobflow's uuid -> ledger's key."""
        ended = self._pad.workflows.find(
            {f"metadata.{_JOB}": {"$in": list(jobs)}, "state": {"$in": list(_ENDED)}},
            {"metadata": 1, "state": 1, "nodes": 1},
        )
        ended = list(ended)
        if ended and self._in_memory:
            self._store.connect(force_reset=True)  # reads the file again
        results = [(jobs[workflow["metadata"][_JOB]], self._result(workflow)) for workflow in ended]
        with ledger.batch():
            for key, result in results:
                ledger.finish(key, **result)

    def _result(self, workflow: dict[str, Any]) -> dict[str, Any]:
        if workflow["state"] != "COMPLETED":
            return {"status": "failed", "reason": self._why(workflow)}
        try:
            output: dict[str, Any] = self._store.get_output(workflow["metadata"][_JOB], load=True)
            return output
        except ValueError:
            return {"status": "failed", "reason": "its result is not in jobflow's store"}

    def _why(self, workflow: dict[str, Any]) -> str:
        for number in workflow["nodes"]:
            firework = self._pad.get_fw_dict_by_id(number)
            for launch in firework.get("launches", ()):
                problem = ((launch.get("action") or {}).get("stored_data") or {}).get("_exception", {})
                if problem.get("_stacktrace"):
                    return f"workflow {number}: {problem['_stacktrace'].strip().splitlines()[-1]}"[:200]
        return f"workflow {workflow['nodes'][0]} is {workflow['state']}"

    def _launch_one(self, folder: Path) -> bool:
        from fireworks import FWorker
        from fireworks.core.rocket_launcher import rapidfire

        if not self._pad.run_exists(FWorker()):
            return False
        (folder / "fireworks").mkdir(exist_ok=True)
        logging.disable(logging.INFO)  # five lines a rocket, in the middle of the progress line
        try:
            with chdir(folder / "fireworks"):  # rapidfire makes a folder for each launch where it is
                rapidfire(self._pad, FWorker(), nlaunches=1, sleep_time=0, strm_lvl="ERROR")
        finally:
            logging.disable(logging.NOTSET)
        return True


def _workflow(calculation: Calculation, store: Any) -> tuple[Any, str]:
    """The workflow of a calculation, and the uuid of the jobflow job whose output is its result."""
    from jobflow.managers.fireworks import flow_to_workflow

    from voxtal.calculators.maker import RelaxMaker

    spec = spec_from_text(calculation.calculator)
    settings = asdict(settings_from_text(calculation.settings))
    maker = RelaxMaker(calculator=spec.name, options=dict(spec.options), **settings)
    flow = maker.make(structure_from_text(calculation.initial))
    job = str(flow.output.uuid)
    workflow = flow_to_workflow(flow, store, name=calculation.id, metadata={_KEY: calculation.key, _JOB: job})
    return workflow, job


def _file_store(folder: Path) -> Any:
    from jobflow import JobStore
    from maggma.stores import JSONStore

    folder.mkdir(exist_ok=True)
    store = JobStore(JSONStore(str((folder / "outputs.json").absolute()), read_only=False))
    store.connect()
    return store


@contextmanager
def _alone(file: str | None) -> Iterator[None]:
    """Refuse a second process on one mongomock file, which it would overwrite."""
    if file is None:
        yield
        return
    with open(f"{file}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process uses {file}: a LaunchPad in a file serves one process at a time. "
                "Wait for it, or use a MongoDB."
            ) from None
        yield
