"""The one jobflow Maker for every calculator: what FireWorks and jobflow-remote are handed."""

from __future__ import annotations

import json

import pytest
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, MontyEncoder

from voxtal.calculators.base import CalculatorSpec, RelaxSettings
from voxtal.calculators.emt import EMTCalculator
from voxtal.calculators.maker import RelaxMaker
from voxtal.calculators.plain import plain_result, result_of
from voxtal.errors import UserError

SETTINGS = RelaxSettings(max_steps=20, fmax_ev_per_angstrom=0.02)
MAKER = RelaxMaker.of(CalculatorSpec("emt"), SETTINGS)


def without_time(plain: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in plain.items() if key != "wall_seconds"}


def test_a_job_gives_what_the_calculator_gives(copper_gold, tmp_path):
    """The same candidate would have another ledger row through a workflow engine than through a worker process."""
    direct = EMTCalculator().relax(copper_gold[-1], SETTINGS)
    job = MAKER.make(copper_gold[-1])
    responses = run_locally(job, log=False, store=JobStore(MemoryStore()), root_dir=tmp_path, create_folders=True)
    output = responses[job.output.uuid][1].output
    assert without_time(output) == without_time(plain_result(direct))
    assert output["status"] == "converged"
    assert result_of(output).structure.matches(direct.structure)


def test_a_maker_and_its_job_survive_json(copper_gold, tmp_path):
    """An engine stores jobs as JSON and runs them in another process."""
    own = RelaxMaker.of(CalculatorSpec("vasp", {"user_incar_settings": {"ENCUT": 600}}), SETTINGS)
    for maker in (MAKER, own):
        assert json.loads(json.dumps(maker, cls=MontyEncoder), cls=MontyDecoder) == maker
    job = json.loads(json.dumps(MAKER.make(copper_gold[-1]), cls=MontyEncoder), cls=MontyDecoder)
    responses = run_locally(job, log=False, store=JobStore(MemoryStore()), root_dir=tmp_path, create_folders=True)
    assert responses[job.uuid][1].output["status"] == "converged"


def test_a_failed_relaxation_is_an_output_too(copper_gold, tmp_path):
    """A bad structure would stop a workflow, with no row of its own."""
    bad = copper_gold[-1].copy()
    bad.replace_species({"Au": "Fe"})
    job = MAKER.make(bad)
    flow = Flow([job], output=job.output)
    responses = run_locally(flow, log=False, store=JobStore(MemoryStore()), root_dir=tmp_path, create_folders=True)
    assert responses[job.uuid][1].output["status"] == "failed"
    assert "Fe" in responses[job.uuid][1].output["reason"]


def test_an_unknown_calculator_is_told_before_a_job_is_made(copper_gold):
    """A typo would be found on a compute node, after the queue."""
    with pytest.raises(UserError, match="there are chgnet"):
        RelaxMaker(calculator="chgnt").make(copper_gold[-1])
