"""``voxtal VERB``: registers the verbs, whose modules are light: what they need is imported when they run."""

from __future__ import annotations

import importlib
from typing import Annotated

import typer

VERBS = {
    "import": "import_structures",
    "hypothetical": "hypothetical",
    "relax": "relax",
    "voxelize": "voxelize",
    "train": "train",
    "encode": "encode",
    "generate": "generate",
    "export": "export",
    "evaluate": "evaluate",
    "hull": "hull",
    "augment": "augment",
    "round": "round",
    "view": "view",
    "status": "status",
    "report": "report",
    "submit": "submit",
    "doctor": "doctor",
}
"""Verb -> module of this package; its function of the module's name is the command."""

EPILOG = """
\b
Example: a run directory with a configuration, then one active-learning round at a time:
    mkdir -p runs/co-hf
    echo 'system = "Co-Hf"' > runs/co-hf/voxtal.toml
    voxtal round --run runs/co-hf
    voxtal status --run runs/co-hf

Exit codes: 0 done, 1 failed, 2 wrong use or wrong input, 75 stopped on a signal (run it again to carry on).
"""


def build_app() -> typer.Typer:
    """The command line application, every verb registered."""
    app = typer.Typer(
        name="voxtal",
        help="Inverse design of inorganic crystals: voxels, CCDCGAN, relaxation, hull, and the next round.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for verb, module in VERBS.items():
        command = getattr(importlib.import_module(f"voxtal.cli.{module}"), module)
        app.command(verb)(command)
    app.callback(help=app.info.help)(_options)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        import voxtal

        typer.echo(f"voxtal {voxtal.__version__}")
        raise typer.Exit()


def _options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop."),
    ] = False,
) -> None:
    """Options of ``voxtal`` itself, before the verb."""


def main() -> None:
    """Entry point of ``voxtal``."""
    from voxtal.cli.ranks import enter

    enter(lambda: build_app()())
