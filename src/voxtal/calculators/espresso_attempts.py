"""Which run of pw.x comes next: a pure function of those that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from voxtal.calculators.base import RelaxSettings, Status
from voxtal.calculators.espresso_input import ELECTRONS, LAST_LABELLING, Stage
from voxtal.calculators.espresso_output import Outcome

MAX_KILLED = 2
"""Runs of one stage that may end without a word."""
BASIS_CHANGE_LIMIT = 0.05
"""Change of the volume from which on the plane waves of the starting cell are no longer those of the relaxed one."""


@dataclass(frozen=True)
class Step:
    """A run to be made, from the last geometry there is."""

    stage: Stage
    why: str
    electrons: int = 0
    """Index of ``espresso_input.ELECTRONS``."""
    restart: bool = False
    """Go on with the files of the run before, not only with its geometry."""


@dataclass(frozen=True)
class Attempt:
    """A run that has ended."""

    step: Step
    outcome: Outcome
    message: str = ""
    volume_change: float = 0.0
    """Of the cell whose plane waves were used, as a share of it."""

    @property
    def basis_changed(self) -> bool:
        return abs(self.volume_change) > BASIS_CHANGE_LIMIT


@dataclass(frozen=True)
class End:
    """No run is left to be made."""

    status: Status
    reason: str = ""


def next_step(
    attempts: Sequence[Attempt], settings: RelaxSettings, max_attempts: int, scratch: bool = False
) -> Step | End:
    """What to do after ``attempts``.

    Parameters
    ----------
    attempts : sequence of Attempt
        All that have ended, in order; interrupted ones count nothing.
    settings : RelaxSettings
        ``max_steps`` are those of each attempt; with 0 there is only the static one.
    max_attempts : int
        Of each stage.
    scratch : bool
        Whether the files of the last attempt are there.
    """
    if not attempts:
        return Step("relax" if settings.max_steps else "static", "first attempt")
    last = attempts[-1]
    stage = [a for a in attempts if a.step.stage == last.step.stage and a.outcome != Outcome.INTERRUPTED]
    again = replace(last.step, restart=False)
    if last.outcome == Outcome.INTERRUPTED:
        return replace(again, why="voxtal was stopped; from the last geometry")
    if last.outcome == Outcome.CONVERGED:
        return _after_convergence(last, attempts, len(stage) < max_attempts)
    if last.step.restart and last.outcome in (Outcome.INPUT_ERROR, Outcome.SCF_UNCONVERGED, Outcome.KILLED):
        return replace(again, why=f"the restart failed ({last.message}); from the last geometry")
    if last.outcome in (Outcome.INPUT_ERROR, Outcome.COLLAPSED):
        return End("failed", last.message)
    if last.outcome in (Outcome.OUT_OF_STEPS, Outcome.STUCK):
        if len(stage) < max_attempts:
            return replace(again, why=f"{last.outcome}; from the last geometry")
        return Step("static", f"{last.outcome} in {max_attempts} attempts; the label of the last geometry")
    return _after_trouble(last, stage, max_attempts, scratch)


def _after_convergence(last: Attempt, attempts: Sequence[Attempt], may_go_on: bool) -> Step | End:
    change = f"the volume changed by {last.volume_change:+.0%}"
    if last.step.stage == "relax":
        if last.basis_changed and may_go_on:
            return Step("relax", f"{change}; with the plane waves of the relaxed cell", last.step.electrons)
        return Step("static", "the label of the relaxed geometry", min(last.step.electrons, LAST_LABELLING))
    relaxations = [a for a in attempts if a.step.stage == "relax" and a.outcome != Outcome.INTERRUPTED]
    if not relaxations:
        return End("converged")
    if relaxations[-1].outcome != Outcome.CONVERGED:
        return End("unconverged", f"{relaxations[-1].outcome}, {len(relaxations)} attempts")
    if relaxations[-1].basis_changed:
        return End("unconverged", f"the cell still changes, {len(relaxations)} attempts: are the cutoffs too low?")
    return End("converged")


def _after_trouble(last: Attempt, stage: Sequence[Attempt], max_attempts: int, scratch: bool) -> Step | End:
    again = replace(last.step, restart=False)
    spent = End("failed", f"{last.outcome}, {len(stage)} attempts of {last.step.stage}: {last.message}")
    if len(stage) >= max_attempts:
        return spent
    if last.outcome == Outcome.WALLTIME:
        how = "with its files" if scratch else "from the last geometry"
        return replace(again, restart=scratch, why=f"out of time; {how}")
    if last.outcome == Outcome.KILLED:
        killed = sum(a.outcome == Outcome.KILLED for a in stage)
        return spent if killed >= MAX_KILLED else replace(again, why=f"{last.message}; from the last geometry")
    hardest = LAST_LABELLING if last.step.stage == "static" else len(ELECTRONS) - 1
    if last.step.electrons >= hardest:
        return spent
    return replace(again, electrons=last.step.electrons + 1, why=f"{last.message}; the next electronic settings")
