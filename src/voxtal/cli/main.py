"""``voxtal VERB``: registers the verbs. Each verb's module is light to import; its work is imported when it runs."""

from __future__ import annotations

import importlib
import sys

import typer

from voxtal.cli.common import run_command

VERBS = {
    "import": "import_structures",
    "hypothetical": "hypothetical",
    "relax": "relax",
    "voxelize": "voxelize",
    "train": "train",
    "encode": "encode",
    "generate": "generate",
    "evaluate": "evaluate",
    "hull": "hull",
    "round": "round",
    "status": "status",
    "report": "report",
}
"""Verb -> module of this package; its function of the module's name is the command."""

EPILOG = """
Example: a run directory with a configuration, then one active-learning round at a time:

    mkdir -p runs/co-hf && printf 'system = "Co-Hf"\\n' > runs/co-hf/voxtal.toml

    voxtal round --run runs/co-hf

    voxtal status --run runs/co-hf
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
    app.callback()(_version_option)
    return app


def _version_option(
    version: bool = typer.Option(False, "--version", is_eager=True, help="Print the version and stop."),
) -> None:
    if version:
        import voxtal

        typer.echo(f"voxtal {voxtal.__version__}")
        raise typer.Exit()


def main() -> None:
    """Entry point of ``voxtal``."""
    sys.exit(run_command(build_app()))
