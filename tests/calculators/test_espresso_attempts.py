from __future__ import annotations

from voxtal.calculators.base import RelaxSettings
from voxtal.calculators.espresso_attempts import Attempt, End, Step, next_step
from voxtal.calculators.espresso_input import ELECTRONS, LAST_LABELLING
from voxtal.calculators.espresso_output import Outcome

SETTINGS = RelaxSettings(max_steps=50, fmax_ev_per_angstrom=0.05)
RELAX, STATIC = Step("relax", ""), Step("static", "")
LABEL = Attempt(STATIC, Outcome.CONVERGED)


def after(*attempts: Attempt, scratch: bool = False, max_attempts: int = 3) -> tuple | End:
    """Stage, electronic settings and restart of the next step, or the end."""
    found = next_step(attempts, SETTINGS, max_attempts, scratch)
    return found if isinstance(found, End) else (found.stage, found.electrons, found.restart)


def test_a_relaxation_is_followed_by_its_label():
    """The label would be the energy of a basis set of another cell."""
    assert after() == ("relax", 0, False)
    assert after(Attempt(RELAX, Outcome.CONVERGED)) == ("static", 0, False)
    assert after(Attempt(RELAX, Outcome.CONVERGED), LABEL) == End("converged")
    assert next_step((), RelaxSettings(0, 0.05), 3) == Step("static", "first attempt")


def test_a_cell_that_changed_much_is_relaxed_again():
    """The relaxed cell would be one of plane waves that belong to a cell of another size."""
    grown = Attempt(RELAX, Outcome.CONVERGED, volume_change=0.2)
    assert after(grown) == ("relax", 0, False)
    assert after(grown, Attempt(RELAX, Outcome.CONVERGED)) == ("static", 0, False)
    assert after(grown, grown, grown) == ("static", 0, False)
    words = "the cell still changes, 3 attempts: are the cutoffs too low?"
    assert after(grown, grown, grown, LABEL) == End("unconverged", words)


def test_out_of_steps_goes_on_and_ends_as_unconverged():
    """A slow relaxation would be lost, or go on for ever."""
    short = Attempt(RELAX, Outcome.OUT_OF_STEPS)
    assert after(short, short) == ("relax", 0, False)
    assert after(short, short, short) == ("static", 0, False)
    assert after(short, short, short, LABEL) == End("unconverged", "out of steps, 3 attempts")


def test_walltime_restarts_with_what_there_is():
    """A large cell would never end, or a vanished scratch would be an error."""
    timed_out = Attempt(RELAX, Outcome.WALLTIME)
    assert after(timed_out, scratch=True) == ("relax", 0, True)
    assert after(timed_out) == ("relax", 0, False)
    failed_restart = Attempt(Step("relax", "", restart=True), Outcome.INPUT_ERROR, "read_file")
    assert after(timed_out, failed_restart, scratch=True) == ("relax", 0, False)
    assert after(timed_out, timed_out, timed_out).status == "failed"


def test_an_unconverged_scf_gets_harder_settings_but_a_label_keeps_its_smearing():
    """A label would be the energy of a larger smearing than its method's."""
    tries = [
        Attempt(Step("relax", "", electrons=i), Outcome.SCF_UNCONVERGED, "its words") for i in range(len(ELECTRONS))
    ]
    for n in range(1, len(tries)):
        assert after(*tries[:n], max_attempts=9) == ("relax", n, False)
    end = after(*tries, max_attempts=9)
    assert end == End("failed", f"scf unconverged, {len(tries)} attempts of relax: its words")
    smeared = Attempt(Step("relax", "", electrons=len(ELECTRONS) - 1), Outcome.CONVERGED)
    assert after(smeared) == ("static", LAST_LABELLING, False)
    hard = Attempt(Step("static", "", electrons=LAST_LABELLING), Outcome.SCF_UNCONVERGED)
    assert after(smeared, hard, max_attempts=9).status == "failed"
    assert all("degauss_factor" not in ELECTRONS[i] for i in range(LAST_LABELLING + 1))


def test_what_cannot_be_helped_fails_at_once():
    """Hours would go into repeating an input error or a collapsed cell."""
    for outcome in (Outcome.INPUT_ERROR, Outcome.COLLAPSED):
        assert after(Attempt(RELAX, outcome, "its words")) == End("failed", "its words")


def test_a_killed_run_gets_one_more_try_and_interruptions_count_nothing():
    """A node without memory would be tried for ever; a preempted job would lose its calculation."""
    killed, stopped = Attempt(RELAX, Outcome.KILLED, "SIGKILL"), Attempt(RELAX, Outcome.INTERRUPTED)
    assert after(killed) == ("relax", 0, False)
    assert after(killed, killed) == End("failed", "killed, 2 attempts of relax: SIGKILL")
    assert after(*[stopped] * 20) == ("relax", 0, False)
    assert after(*[stopped] * 20, killed) == ("relax", 0, False)
