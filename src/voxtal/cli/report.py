"""``voxtal report``: one HTML page and one summary.json for the whole run, and a page for each round."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voxtal.cli.common import RunOption, SetOption, duration, open_run, progress
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.reports.page import Page, Picture
    from voxtal.reports.run_data import RoundData
    from voxtal.reports.summary import CandidateRow
    from voxtal.runs import Run

LIBRARIES = ("torch", "pymatgen", "chgnet", "ase", "numpy")
PICTURES = 8
"""Structures that are drawn, lowest energy above hull first."""
MAX_DRAWN_ATOMS = 48
"""A conventional cell with more atoms than this is drawn as its primitive one."""


def report(run: RunOption = Path(), overrides: SetOption = None) -> None:
    """Write the HTML report and summary.json.

    They lie in RUN/report, and each round's page in RUN/round-NNN/report. The page is one file that
    needs no network: copy it anywhere and open it. It can be written at any time, also during a round.

    Example: voxtal report --run runs/co-hf
    """
    write_report(open_run(run, overrides))


def write_report(run: Run) -> Path:
    """Write all pages of ``run``; return the one of the whole run.

    Raises
    ------
    UserError
        The run has no results yet, or a file in it is not what it should be.
    """
    from voxtal.reports.page import render
    from voxtal.reports.run_data import read_round
    from voxtal.reports.summary import run_summary, targets
    from voxtal.runs import atomic_path, write_json

    rounds = [data for data in map(read_round, run.rounds()) if _has_results(data)]
    if not rounds:
        raise UserError(
            f"Nothing to report in {run.root} yet: no round has results. "
            f"Run `voxtal round --run {run.root}` first; `voxtal status --run {run.root}` shows where it is."
        )
    folder = run.root / "report"
    pages = {folder: rounds} | {run.round(data.index).report: [data] for data in rounds}
    with progress("report", total=len(pages)) as advance:
        for place, shown in pages.items():
            with atomic_path(place / "index.html") as temporary:
                temporary.write_text(render(_page(run, shown)), encoding="utf-8")
            advance(1, str(place))
    facts = {"system": run.config.system, "preset": run.config.preset, "seed": run.config.seed}
    write_json(folder / "summary.json", run_summary(rounds, facts))
    for figure in targets(rounds):
        value = "no figure yet" if figure.value is None else f"{figure.value:.3f}"
        verdict = {True: "met", False: "MISSED", None: "open"}[figure.met]
        print(
            f"{figure.name}: {value} {figure.unit}".rstrip(),
            f"(target {figure.target}: {verdict}; {figure.detail})",
        )
    print(f"Report: {folder / 'index.html'}")
    return folder / "index.html"


def _has_results(data: RoundData) -> bool:
    return bool(data.summary or data.evaluation or data.candidates or data.hull or any(data.metrics.values()))


def _page(run: Run, rounds: Sequence[RoundData]) -> Page:
    from voxtal.config import CONFIG_NAME
    from voxtal.reports.page import Page
    from voxtal.reports.summary import candidate_rows

    system = run.config.system or "All elements"
    seconds = sum(data.summary.get("wall_seconds") or 0.0 for data in rounds)
    shown = ", ".join(str(data.index) for data in rounds)
    config = run.root / CONFIG_NAME
    return Page(
        title=f"{system}: inverse design by CCDCGAN",
        lead=f"Round{'s' if len(rounds) > 1 else ''} {shown}; preset {run.config.preset}, "
        f"seed {run.config.seed}; {duration(seconds)} of work.",
        rounds=rounds,
        pictures=_pictures(run, candidate_rows(rounds)),
        facts=_facts(run, rounds),
        config=config.read_text(encoding="utf-8"),
        commands=["mkdir NEW && cp voxtal.toml NEW/"]
        + ["voxtal round --run NEW"] * (rounds[-1].index + 1)
        + ["voxtal report --run NEW"],
    )


def _facts(run: Run, rounds: Sequence[RoundData]) -> dict[str, str]:
    """Methods and versions as the manifest and the hull record them."""
    from importlib.metadata import version

    from voxtal.runs import read_json

    commands = read_json(run.manifest)["commands"] if run.manifest.is_file() else []
    last = commands[-1] if commands else {}
    methods = sorted({data.hull["method"] for data in rounds if data.hull.get("method")})
    facts = {
        "Energies": ", ".join(methods) or run.config.relax.calculator,
        "voxtal": f"{last.get('voxtal', '')} {last.get('git') or ''}".strip(),
        "Python": last.get("python", ""),
        "Libraries": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "Last command": f"{last.get('command', '')} {last.get('time', '')}".strip(),
        "Voxels": f"sites {run.config.voxels.sites_grid}³, lattice {run.config.voxels.lattice_grid}³, "
        f"placement {run.config.voxels.placement}",
        "Withheld from training": ", ".join(run.config.structures.withhold),
    }
    return {name: value for name, value in facts.items() if value}


def _pictures(run: Run, rows: Sequence[CandidateRow]) -> list[Picture]:
    """Drawings of the best candidates whose relaxed structure is on disk."""
    drawn: list[Picture] = []
    for row in rows:
        path = run.round(row.round).relax / row.id / "relaxed.cif"
        if len(drawn) < PICTURES and row.e_above_hull is not None and path.is_file():
            drawn.append(_picture(path, row))
    return drawn


def _picture(path: Path, row: CandidateRow) -> Picture:
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    from voxtal.reports.page import Picture
    from voxtal.reports.structure_picture import hex_colour, structure_picture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen tells of every coordinate that it rounds to 1/3
        structure = Structure.from_file(path)
    with contextlib.suppress(SymmetryUndeterminedError):
        conventional = SpacegroupAnalyzer(structure, symprec=0.1).get_conventional_standard_structure()
        if len(conventional) <= MAX_DRAWN_ATOMS:
            structure = conventional
    numbers = list(structure.atomic_numbers)
    return Picture(
        svg=structure_picture(
            structure.frac_coords, structure.lattice.matrix, jmol_colors[numbers], covalent_radii[numbers]
        ),
        row=row,
        elements={element.symbol: hex_colour(jmol_colors[element.Z]) for element in structure.elements},
    )
