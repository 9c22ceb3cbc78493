"""``voxtal evaluate``: a round, or what a representation keeps of any structures; under mpirun or alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, print_table, progress
from voxtal.cli.voxelize import Representation
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.data.schema import Settings
    from voxtal.parallel.communicator import Communicator


def evaluate(
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
    roundtrip: Annotated[
        Path | None,
        typer.Option(
            "--roundtrip", metavar="STRUCTURES.h5", help="Encode and decode these structures, without a network."
        ),
    ] = None,
    representation: Annotated[
        Representation,
        typer.Option("--representation", help="With --roundtrip: sites and lattice voxels, or density maps."),
    ] = Representation.SITES,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="With --roundtrip: write the figures there, too.")
    ] = None,
) -> None:
    """Judge a round: reproduction, constraint error, valid / unique / novel, and what relaxation did.

    With --roundtrip, judge a representation instead: how many structures does decoding give back, and how exactly?
    Its settings are those of the run directory's voxtal.toml, if there is one.

    Example: voxtal evaluate --run runs/co-hf --round 1

    Example: mpirun -n 4 voxtal evaluate --roundtrip structures.h5 --set preset=paper --json roundtrip.json
    """
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import world

    communicator = world()
    with together(communicator):
        if roundtrip is None:
            if json_ is not None or representation is not Representation.SITES:
                raise UserError("--json and --representation belong to --roundtrip STRUCTURES.h5.")
            _evaluate_round(run, set_ or [], round_, communicator)
        else:
            _evaluate_roundtrip(roundtrip, run, set_ or [], representation, json_, communicator)


def _evaluate_round(run: Path, overrides: list[str], round_: int | None, communicator: Communicator) -> None:
    from voxtal.active.rounds import relaxed_path, screen, summarize
    from voxtal.parallel.communicator import on_root
    from voxtal.runs import exclusive

    opened = on_root(communicator, lambda: open_run(run, overrides))
    paths = on_root(communicator, lambda: pick_round(opened, round_))
    with ExitStack() as stack:

        def lock() -> None:
            stack.enter_context(exclusive(paths.screen, "voxtal evaluate"))

        on_root(communicator, lock)
        evaluation = screen(opened, paths, progress, typer.echo, communicator)

    def conclude() -> None:
        _print_evaluation(evaluation)
        if relaxed_path(paths).is_file() and paths.hull.is_file():
            from voxtal.cli.round import print_summary

            print_summary(summarize(opened, paths, {}))

    on_root(communicator, conclude)


def _print_evaluation(evaluation: dict[str, Any]) -> None:
    rows = [(name, part["n"], part["n_strict"], part["n_cdvae"]) for name, part in evaluation["reproduction"].items()]
    print_table("Reproduction", ["structures", "n", "strict", "CDVAE"], rows)
    errors = [
        (name, *(evaluation["constraint"][name][key] for key in ("n", "mae", "r2"))) for name in ("train", "heldout")
    ]
    print_table("Constraint", ["structures", "n", "MAE eV/atom", "R2"], errors)
    print_table("Attempts", ["passed", "n"], list(evaluation["funnel"].items()))
    if evaluation["invalid_reasons"]:
        print_table("Invalid", ["reason", "n"], list(evaluation["invalid_reasons"].items()))


def _evaluate_roundtrip(
    structures: Path,
    run: Path,
    overrides: list[str],
    representation: Representation,
    json_: Path | None,
    communicator: Communicator,
) -> None:
    from voxtal.parallel.communicator import on_root
    from voxtal.screening.roundtrip import round_trips

    settings = on_root(communicator, lambda: _settings(structures, run, overrides, representation, json_))
    figures = round_trips(structures, settings, communicator, progress)

    def conclude() -> None:
        if json_ is not None:
            from voxtal.runs import write_json

            made_with = {"representation": representation.value, "settings": settings.model_dump()}
            write_json(json_, {"structures": str(structures), **made_with, **figures})
        _print_figures(figures)

    on_root(communicator, conclude)


def _settings(
    structures: Path, run: Path, overrides: list[str], representation: Representation, json_: Path | None
) -> Settings:
    from voxtal.config import CONFIG_NAME, build_config, load_config

    if structures.is_dir() or structures.suffix not in (".h5", ".hdf5"):
        raise UserError(
            f"{structures} is no structure set; make one with `voxtal import {structures} -o structures.h5`."
        )
    if json_ is not None and json_.is_dir():
        raise UserError(f"--json {json_} is a folder; name a file.")
    here = run / CONFIG_NAME
    if run != Path(".") and not here.is_file():
        raise UserError(f"No configuration at {here}; leave --run out to take the default settings.")
    config = load_config(here, overrides) if here.is_file() else build_config({}, overrides)
    return config.density if representation is Representation.DENSITY else config.voxels


def _print_figures(figures: dict[str, Any]) -> None:
    n = figures["n"]

    def share(count: int) -> str:
        return f"{count} ({count / n:.2%})"

    print_table(
        "Round trip",
        ("", "figure"),
        [
            ("structures", n),
            ("reproduced, strict matcher", share(figures["n_strict"])),
            ("reproduced, CDVAE's matcher", share(figures["n_cdvae"])),
            ("site RMS, A", figures["site_rms_angstrom"]),
            ("site RMS of a structure, median, A", figures["site_rms_angstrom_median"]),
            ("site RMS of a structure, largest, A", figures["site_rms_angstrom_max"]),
            ("relative error of the cell's edges, mean", figures["cell_relative_error"]),
            ("relative error of the cell's edges, largest", figures["cell_relative_error_max"]),
        ],
    )
    if figures["failures"]:
        rows = [(cause, count, figures["failing_ids"][cause][0]) for cause, count in figures["failures"].items()]
        print_table("Not reproduced (strict)", ("cause", "n", "for example"), rows)
