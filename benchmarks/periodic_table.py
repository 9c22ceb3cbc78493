"""One table of every figure that the paper gives or that is asked for, over finished runs of the periodic table.

    python benchmarks/periodic_table.py RUN [RUN...]

It reads what voxtal's stages wrote and computes nothing anew: figures of the newest round that `voxtal evaluate`,
with and without --relax, left there; seconds and device from the training of each model; the clock of
`voxtal generate`. Element substitution, the baseline, is a column of the first run that has it. Shares are counts with
95% Wilson intervals. launchers/periodic_table.sh makes such runs.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from voxtal.cli.common import duration, open_run, print_table
from voxtal.cli.evaluate_attempts import BASELINE
from voxtal.cli.evaluation_tables import share_text
from voxtal.errors import UserError
from voxtal.runs import read_json, sha256_of
from voxtal.screening.metrics import share
from voxtal.screening.published import PUBLISHED, model_figures
from voxtal.training.separated import SEPARATED, own_element

MISSING = "not measured"
GENERATE = "generate"
PUBLISHED_VALID = 9160
"""Valid attempts of the paper: the more there are, the fewer are new."""
FIRST = "distinct_of_first_valid"


@dataclass(frozen=True)
class Column:
    """What is known of one run, or of the baseline."""

    name: str
    figures: Mapping[str, Any]
    """Of models and attempts, under the names of ``voxtal evaluate``; ``times.json`` of the attempts under GENERATE."""
    made_with: str = ""
    data: str = ""
    trained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model -> its ``trained.json``, in the order in which they were trained."""


def read_columns(roots: Sequence[Path]) -> list[Column]:
    """A column for each run, and one for the baseline where a run has it."""
    columns, baselines = [], []
    for root in roots:
        run = open_run(root)
        paths = run.latest_round()
        if not paths.structures.is_file():
            raise UserError(f"{root} has no structures yet; launchers/periodic_table.sh makes such runs.")
        sets = _read(paths.root / "evaluate" / "evaluation.json", {}).get("sets", {})
        judged = paths.root / "evaluate" / f"{paths.candidates.stem}.csv"
        models = _of_models(read_json(paths.evaluation)) if paths.evaluation.is_file() else {}
        generated = {GENERATE: _read(paths.candidates.parent / "times.json", [])}
        ends = sorted(paths.train("").glob("*/trained.json"), key=lambda path: path.stat().st_mtime)
        columns.append(
            Column(
                name=root.resolve().name,
                figures={**sets.get(paths.candidates.stem, {}), **models, **generated, **_of_first(judged)},
                made_with=f"{run.config.preset}, {run.config.voxels.sites_grid}^3, seed {run.config.seed}",
                data=sha256_of(paths.structures)[:8],
                trained={path.parent.name: read_json(path) for path in ends},
            )
        )
        if BASELINE in sets:
            baselines.append(Column(BASELINE, {**sets[BASELINE], **_of_first(judged.with_stem(BASELINE))}))
    return columns + baselines[:1]


def _read(path: Path, otherwise: Any) -> Any:
    return read_json(path) if path.is_file() else otherwise


def _of_models(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's figures of models, the looser matcher's, and the constraint's on what it was trained on."""
    loose = {
        f"reproduction_cdvae_{split}": share(part["n_cdvae"], part["n"])
        for split, part in evaluation["reproduction"].items()
    }
    known = evaluation["constraint"]["train"]
    trained_on = {f"constraint_{name}_train": {"n": known["n"], "value": known[name]} for name in ("mae", "r2")}
    return {**model_figures(evaluation), **loose, **trained_on}


def _of_first(table: Path) -> dict[str, Any]:
    """How many of the first valid attempts are new and distinct, of as many as the paper's share is of."""
    if not table.is_file():
        return {}
    with table.open(newline="") as lines:
        valid = list(islice((row for row in csv.DictReader(lines) if row["valid"] == "1"), PUBLISHED_VALID))
    if len(valid) < PUBLISHED_VALID:
        return {}
    return {FIRST: share(sum(row["unique"] == row["novel"] == "1" for row in valid), PUBLISHED_VALID)}


def value_text(one: Mapping[str, Any]) -> str:
    """A mean, with its standard error where there is one."""
    value, error = one.get("value", one.get("mean")), one.get("standard_error")
    if value is None:
        return MISSING
    return f"{value:.3f}{'' if error is None else f' +- {error:.3f}'} (n = {one['n']})"


def clock_text(times: Sequence[Mapping[str, Any]]) -> str:
    """What generating and decoding took; attempts of calls that were killed are not in it."""
    made, seconds = (sum(one[key] for one in times) for key in ("attempts", "seconds"))
    if not made:
        return MISSING
    full = "" if made == 50_000 else f"; 50,000 at this rate: {duration(50_000 * seconds / made)}"
    return f"{made} in {duration(seconds)}, {_ranks(times)}{full}"


def trained_text(trainings: Sequence[Mapping[str, Any]]) -> str:
    """What one or more trainings took."""
    if not trainings or any(one.get("seconds") is None for one in trainings):
        return MISSING
    steps, seconds = (sum(one[key] for one in trainings) for key in ("steps", "seconds"))
    return f"{steps} steps, {duration(seconds)}, {_ranks(trainings)}"


def _ranks(made: Iterable[Mapping[str, Any]]) -> str:
    return f"ranks: {', '.join(map(str, sorted({one['ranks'] for one in made})))}"


FIGURES: tuple[tuple[str, str, str, Callable[[Any], str], str], ...] = (
    ("reproduction_strict_train", "reproduction, strict, trained-on structures", ".0%", share_text, ">= 99%"),
    ("reproduction_strict_heldout", "the same, held-out compositions", ".0%", share_text, ">= 97%"),
    ("reproduction_cdvae_train", "reproduction, CDVAE's matcher, trained-on structures", ".0%", share_text, "-"),
    ("reproduction_cdvae_heldout", "the same, held-out compositions", ".0%", share_text, "-"),
    ("constraint_mae_train", "constraint MAE, trained-on structures, eV/atom", ".2f", value_text, "-"),
    ("constraint_r2_train", "constraint R2, trained-on structures", ".2f", value_text, "-"),
    ("constraint_mae_heldout_ev_per_atom", "constraint MAE, held out, eV/atom", ".2f", value_text, "<= 0.10"),
    ("constraint_r2_heldout", "constraint R2, held out", ".2f", value_text, ">= 0.92"),
    ("valid", "valid, of attempts", ".0%", share_text, ">= 80%"),
    ("distinct_of_valid", "new and distinct, of valid", ".0%", share_text, ">= 95%"),
    (FIRST, f"the same, of the first {PUBLISHED_VALID:,} valid", ".0%", share_text, ">= 95%"),
    ("mean_abs_delta_ef_ev_per_atom", "mean |dE_f| of relaxation, eV/atom", ".2f", value_text, "<= 0.10"),
    ("negative_ef_of_labelled", "E_f < 0 after relaxation", ".0%", share_text, ">= 80%"),
    ("sun_metastable", "S.U.N. at 0.1 eV/atom, of attempts", ".0%", share_text, "-"),
    ("rmsd_angstrom", "RMSD to relaxed, A", ".2f", value_text, "-"),
    (GENERATE, "generate and decode", "", clock_text, "50,000 in 1 h"),
)
"""Key, title, format of the published figure, text of ours, what is to be reached."""


def rows_of(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The table: figures, then for the runs what they took and were made with."""
    rows = []
    for key, title, form, text, wanted in FIGURES:
        published = f"{PUBLISHED[key]:{form}}" if key in PUBLISHED else "not given"
        told = [text(column.figures[key]) if key in column.figures else MISSING for column in columns]
        rows.append((title, published, wanted, *told))
    runs = [column for column in columns if column.name != BASELINE]
    for kind in dict.fromkeys(_kind(model) for column in runs for model in column.trained):
        alike = [[one for model, one in column.trained.items() if _kind(model) == kind] for column in runs]
        rows.append((f"training of {kind}", "", "", *map(trained_text, alike)))
    rows.append(("training, together", "", "", *map(_together, runs)))
    rows.append(("trained on", "", "", *map(_devices, runs)))
    rows.append(("preset, sites grid", "", "", *(column.made_with for column in runs)))
    rows.append(("structures and split, hash", "", "", *(column.data for column in runs)))
    return [(*row, *[""] * (3 + len(columns) - len(row))) for row in rows]


def _kind(model: str) -> str:
    """Elements' own autoencoders count together."""
    return SEPARATED if own_element(model) else model


def _together(column: Column) -> str:
    seconds = [one.get("seconds") for one in column.trained.values()]
    return duration(sum(seconds)) if seconds and None not in seconds else MISSING


def _devices(column: Column) -> str:
    return "; ".join(sorted({one["device"] for one in column.trained.values() if "device" in one})) or MISSING


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    try:
        columns = read_columns(parser.parse_args().runs)
    except UserError as error:
        parser.error(str(error))
    names = ["figure", "published", "to reach", *(column.name for column in columns)]
    print_table("Periodic table (95% intervals)", names, rows_of(columns))
    if len({column.data for column in columns} - {""}) > 1:
        print("These runs are of different structures or splits (last row): the table does not compare their models.")


if __name__ == "__main__":
    main()
