"""``voxtal evaluate``: a round, any attempts, or what a representation keeps; under mpirun or alone."""

from __future__ import annotations

from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voxtal.cli.common import RoundOption, RunOption, SetOption, open_run, pick_round, print_table, progress
from voxtal.cli.voxelize import Representation
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.data.schema import Settings
    from voxtal.parallel.communicator import Communicator
    from voxtal.runs import RoundPaths, Run


class Model(StrEnum):
    """Systems of networks that are not judged by crystal graphs."""

    ICSG3D = "icsg3d"


class Baseline(StrEnum):
    """What attempts are compared with."""

    SUBSTITUTION = "substitution"


def evaluate(
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: RoundOption = None,
    model: Annotated[
        Model | None,
        typer.Option("--model", help="icsg3d: judge the UNet, VAE and CGCNNs of a round, and what they generated."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="With --model: attempts that `voxtal generate --name` made."),
    ] = None,
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
    structures: Annotated[
        list[Path] | None,
        typer.Option(
            "--structures",
            metavar="PATH",
            help="Attempts to judge: a structure set, or CIF, POSCAR, extxyz, JSON, CSV or a folder of them, of any "
            "program. Repeatable; each is a column of the table.",
        ),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(
            "--known", metavar="PATH", help="Known structures: for novelty, hulls, and as parents of the baseline."
        ),
    ] = None,
    phases: Annotated[
        list[Path] | None,
        typer.Option(
            "--phases",
            metavar="PATH",
            help="More known phases, for hulls alone: the more complete, the better. Those of the systems that are "
            "relaxed get labels by the same calculator, once. Repeatable.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference", metavar="PATH", help="Structures to compare distributions with; --known if not given."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where tables, figures and the ledger go."),
    ] = None,
    relax: Annotated[
        int,
        typer.Option(
            min=0,
            help="Relax so many of the valid, unique and novel ones, at random, and of each of --systems; and the "
            "known phases of their systems.",
        ),
    ] = 0,
    systems: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Chemical systems for the paper's Table 1 and hulls: Co-Hf,Cd-Li."),
    ] = None,
    baseline: Annotated[
        Baseline | None, typer.Option("--baseline", help="Judge structures by element substitution beside them.")
    ] = None,
    attempts: Annotated[
        int | None,
        typer.Option(min=1, help="Attempts of the baseline; as many as the largest set has, if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the baseline and of the sample that is relaxed.")] = 0,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            "--against",
            metavar="DIR",
            help="Another run, whose learning curves and parity are drawn beside the round's.",
        ),
    ] = None,
) -> None:
    """Judge a round: reproduction, constraint error, valid / unique / novel, and what relaxation did.

    Before anything is generated, only the models are judged.

    With --structures and --known, judge any attempts instead: valid, unique, novel, stable, out of all of them. Without
    those two but with --relax, --systems or --baseline, the attempts are the round's.

    With --model icsg3d, judge a round of ICSG3D instead: species maps, crystals through the VAE, properties, attempts.

    With --roundtrip, judge a representation instead: how many structures does decoding give back, and how exactly?
    Its settings are those of the run directory's voxtal.toml, if there is one.

    Example: voxtal evaluate --run runs/co-hf --round 1 --against runs/co-hf-paper

    Example: voxtal evaluate --structures generated.h5 --known training.h5 --relax 100 --baseline substitution

    Example: voxtal evaluate --model icsg3d --run runs/cubic

    Example: mpirun -n 4 voxtal evaluate --roundtrip structures.h5 --set preset=paper --json roundtrip.json

    Relaxations and the labels of known phases are kept in the ledger of the output folder (evaluate, if not given):
    the same command carries on after an interruption, and a larger --relax adds to what is there.
    """
    from voxtal.cli.evaluate_attempts import Question, evaluate_attempts, task_of
    from voxtal.cli.ranks import together
    from voxtal.parallel.communicator import on_root, world

    question = Question(
        structures=tuple(structures or ()),
        known=known,
        phases=tuple(phases or ()),
        reference=reference,
        output=output,
        relax=relax,
        systems=systems or "",
        baseline=baseline is not None,
        attempts=attempts,
        seed=seed,
    )
    communicator = world()
    with together(communicator):
        if model is not None:
            if question.asked() or against or roundtrip is not None or json_ is not None:
                raise UserError("--model icsg3d judges a round; leave the options of attempts and representations out.")
            from voxtal.cli.evaluate_icsg3d import evaluate_round

            evaluate_round(run, set_ or [], round_, name, communicator)
            return
        if name is not None:
            raise UserError("--name belongs to --model icsg3d.")
        if roundtrip is not None:
            if question.asked() or against:
                raise UserError("--roundtrip judges a representation; leave the options of attempts and rounds out.")
            _evaluate_roundtrip(roundtrip, run, set_ or [], representation, json_, communicator)
            return
        if json_ is not None or representation is not Representation.SITES:
            raise UserError("--json and --representation belong to --roundtrip STRUCTURES.h5.")
        if not question.asked():
            _evaluate_round(run, set_ or [], round_, against or [], communicator)
            return
        if against:
            raise UserError("--against draws a round's models beside those of other runs; leave it out for attempts.")
        task = on_root(communicator, lambda: task_of(question, run, set_ or [], round_))
        evaluate_attempts(task, communicator)


def _evaluate_round(
    run: Path, overrides: list[str], round_: int | None, against: list[Path], communicator: Communicator
) -> None:
    from voxtal.active.rounds import relaxed_path, screen, summarize
    from voxtal.parallel.communicator import on_root
    from voxtal.runs import exclusive

    opened = on_root(communicator, lambda: open_run(run, overrides))
    paths = on_root(communicator, lambda: pick_round(opened, round_))
    others = on_root(communicator, lambda: [pick_round(open_run(other), None) for other in against])
    with ExitStack() as stack:

        def lock() -> None:
            stack.enter_context(exclusive(paths.screen, "voxtal evaluate"))

        on_root(communicator, lock)
        if not on_root(communicator, paths.candidates.is_file):
            on_root(communicator, lambda: _evaluate_models(opened, paths))
            return
        evaluation = screen(opened, paths, progress, typer.echo, communicator)

    def conclude() -> None:
        _print_models(evaluation)
        _print_attempts(evaluation)
        _print_beside_paper(evaluation)
        _draw_learning([paths, *others], paths.report)
        if relaxed_path(paths).is_file() and paths.hull.is_file():
            from voxtal.cli.round import print_summary

            print_summary(summarize(opened, paths, {}))

    on_root(communicator, conclude)


def _evaluate_models(run: Run, paths: RoundPaths) -> None:
    """What there is to judge before anything is generated."""
    from voxtal.screening.evaluate import evaluate_models

    _print_models(evaluate_models(run, paths, progress))
    typer.echo(f"There are no candidates at {paths.candidates} to judge yet; make them with `voxtal generate`.")


def _draw_learning(drawn: list[RoundPaths], folder: Path) -> None:
    """Learning curves of the rounds' autoencoders, and parity of their constraints."""
    from voxtal.reports.learning_figures import autoencoder_curves, learning_curves_figure, parity_figures
    from voxtal.runs import read_json

    runs = [paths.root.resolve().parent for paths in drawn]
    alike = len({run.name for run in runs}) < len(runs)
    rounds = {str(run) if alike else run.name: paths for run, paths in zip(runs, drawn, strict=True)}
    curves = {
        f"{name} {model}": lines for name, paths in rounds.items() for model, lines in autoencoder_curves(paths).items()
    }
    learning_curves_figure(curves, folder / "learning-curves.png")
    evaluations = {name: read_json(paths.evaluation) for name, paths in rounds.items() if paths.evaluation.is_file()}
    parity = {name: found["constraint"]["parity"] for name, found in evaluations.items()}
    parity_figures({name: points for name, points in parity.items() if points}, folder / "parity.png")
    typer.echo(f"{folder}: learning-curves.png, parity.png")


def _print_models(evaluation: dict[str, Any]) -> None:
    rows = [
        (name, part["n"], _reproduced(part, "strict"), _reproduced(part, "cdvae"))
        for name, part in evaluation["reproduction"].items()
    ]
    print_table("Reproduction (95% intervals)", ["structures", "n", "strict", "CDVAE"], rows)
    errors = [
        (name, *(evaluation["constraint"][name][key] for key in ("n", "mae", "r2"))) for name in ("train", "heldout")
    ]
    print_table("Constraint", ["structures", "n", "MAE eV/atom", "R2"], errors)
    others = [
        (name, split, *(judged[split][key] for key in ("n", "mae", "r2")))
        for name, judged in evaluation.get("other_constraints", {}).items()  # an older file has none
        for split in ("train", "heldout")
    ]
    if others:
        print_table("Constraints of other properties", ["property", "structures", "n", "MAE", "R2"], others)


def _print_attempts(evaluation: dict[str, Any]) -> None:
    print_table("Attempts", ["passed", "n"], list(evaluation["funnel"].items()))
    if evaluation["invalid_reasons"]:
        print_table("Invalid", ["reason", "n"], list(evaluation["invalid_reasons"].items()))


def _print_beside_paper(evaluation: dict[str, Any]) -> None:
    from voxtal.cli.evaluation_tables import print_beside_paper
    from voxtal.screening.metrics import share
    from voxtal.screening.published import model_figures

    passed = evaluation["funnel"]
    attempts = {
        "valid": share(passed["valid"], passed["attempts"]),
        "distinct_of_valid": share(passed["novel"], passed["valid"]),
    }
    print_beside_paper({"this round": model_figures(evaluation) | attempts})


def _reproduced(part: dict[str, Any], matcher: str) -> str:
    from voxtal.cli.evaluation_tables import share_text
    from voxtal.screening.metrics import share

    return share_text(share(part[f"n_{matcher}"], part["n"]))


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
