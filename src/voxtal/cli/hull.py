"""``voxtal hull``: the convex hull of a run, known phases against candidates, as JSON and as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, print_table


def hull(run: RunOption = Path("."), round: RoundOption = None, set_: SetOption = None) -> None:
    """Build the convex hull of the run's labels and draw it.

    Example: voxtal hull --run runs/quickstart

    Takes every label of the run's calculator up to the given round from the ledger. Writes hull.json,
    hull.png and hull.svg to round-NNN/hull and prints the stable phases.
    """
    from voxtal.calculators.registry import get_calculator
    from voxtal.errors import UserError
    from voxtal.ledger import Ledger
    from voxtal.reports.hull_figure import DRAWABLE_ELEMENTS, hull_figure
    from voxtal.runs import write_json
    from voxtal.screening.hull import build_hull
    from voxtal.structures.phases import parse_system
    from voxtal.workflows.labels import hull_entries

    opened = open_run(run, set_)
    if opened.config.system is None:
        raise UserError('The hull is of one chemical system; set it in voxtal.toml, for example system = "Co-Hf".')
    if not opened.ledger.is_file():
        raise UserError(f"No ledger at {opened.ledger}; run `voxtal relax` or `voxtal round` first.")
    elements = parse_system(opened.config.system)
    method = get_calculator(opened.config.relax.calculator).method.fingerprint
    paths = opened.latest_round() if round is None else opened.round(round)
    with Ledger(opened.ledger) as ledger:
        entries = hull_entries(ledger, method, elements, up_to_round=paths.index)
    built = build_hull(entries, "-".join(elements), method)
    write_json(paths.hull, built)
    _print_stable(built)
    print(f"{paths.hull}: {len(entries)} labels of {method}")
    if len(elements) in DRAWABLE_ELEMENTS:
        for suffix in (".png", ".svg"):
            hull_figure(built, paths.hull.with_suffix(suffix))
            print(paths.hull.with_suffix(suffix))


def _print_stable(built: dict[str, Any]) -> None:
    by_id = {entry["id"]: entry for entry in built["entries"]}
    print_table(
        f"Stable phases of {built['system']}",
        ("formula", "space group", "E_f eV/atom", "to known hull eV/atom", "what", "round", "id"),
        [
            (
                entry["formula"],
                entry["spacegroup"],
                f"{entry['formation_energy_ev_per_atom']:.3f}",
                f"{entry['e_above_known_hull_ev_per_atom']:.3f}",
                entry["role"],
                entry["round"],
                entry["id"],
            )
            for entry in (by_id[id] for id in built["hull"])
        ],
    )
