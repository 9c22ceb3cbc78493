"""``voxtal view``: one structure, its voxels and what decoding makes of them, as a picture and a page that turns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from voxtal.cli.common import RunOption, SetOption, open_run, pick_round, print_table
from voxtal.cli.voxelize import Representation
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.generation.decode import Decoded
    from voxtal.runs import RoundPaths, Run
    from voxtal.structures.structure_set import StructureSet

MAX_NAMED_IDS = 5
MAX_NAME = 120
"""Characters of a file's name."""


def view(
    target: Annotated[
        str,
        typer.Argument(
            metavar="ID | STRUCTURES.h5:ID",
            help="A training structure, candidate or relaxed candidate of the run; or a structure of any set.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder to write; view/ of the run directory.")
    ] = None,
    run: RunOption = Path("."),
    set_: SetOption = None,
    round_: Annotated[
        int | None, typer.Option("--round", metavar="N", help="Round to look in; all, the newest first, if not given.")
    ] = None,
    representation: Annotated[
        Representation,
        typer.Option("--representation", help="sites: sites and lattice voxels; density: density and species maps."),
    ] = Representation.SITES,
) -> None:
    """Draw a structure, its voxels and its decoded structure side by side: ID.png, and ID.html to turn with the mouse.

    A training structure of a round with trained autoencoders is shown as it comes back through these, too.

    Example: voxtal view r0-000012 --run runs/co-hf

    Example: voxtal view structures.h5:mp-1234 --representation density -o pictures
    """
    from voxtal.cli.portrait import portrait
    from voxtal.reports.view_html import write_view_html
    from voxtal.reports.view_png import write_view_png

    found, opened = _look_up(target, run, set_ or [], round_)
    density = representation is Representation.DENSITY
    settings = opened.config.density if density else opened.config.voxels
    networks = None if density else _networks(opened, found)
    made = portrait(found.structures, found.what, settings, networks)
    name = re.sub(r"[^\w.+-]+", "_", found.id).strip(".")[:MAX_NAME] + ("-density" if density else "")
    folder = output or run / "view"
    for write, suffix in ((write_view_png, "png"), (write_view_html, "html")):
        write(made.view, folder / f"{name}.{suffix}")
    print_table(f"{found.id}, {found.what}", ("", ""), made.facts)
    print(f"{folder / name}.png")
    print(f"{folder / name}.html")


@dataclass(frozen=True)
class _Found:
    """One structure as a set of its own, and where it is from.

    ``paths`` is the round whose training set it belongs to, none for other structures; ``row`` is its row there.
    """

    structures: StructureSet
    what: str
    row: int
    paths: RoundPaths | None = None

    @property
    def id(self) -> str:
        return str(self.structures.ids[0])


def _look_up(target: str, run: Path, overrides: list[str], round_: int | None) -> tuple[_Found, Run]:
    """The structure that ``target`` names, and the run whose settings are used: the defaults where there is none."""
    from voxtal.config import CONFIG_NAME, build_config
    from voxtal.runs import Run
    from voxtal.structures.structure_set import StructureSet

    file = re.fullmatch(r"(.+\.(?:h5|hdf5))(?::(.*))?", target)
    if file is None:
        opened = open_run(run, overrides)
        return _in_run(target, opened, round_), opened
    if round_ is not None:
        raise UserError(f"--round belongs to an ID of a run; {target} names a file.")
    here = (run / CONFIG_NAME).is_file()
    opened = open_run(run, overrides) if here else Run(run, build_config({}, overrides))
    path = Path(file[1])
    structures = StructureSet.read(path)
    if not file[2]:
        raise UserError(
            f"{path} holds {len(structures)} structures; name one: {path}:ID. {_some(structures.ids.tolist())}"
        )
    row = _row(structures, file[2])
    if row is None:
        raise UserError(f"{path} has no structure {file[2]!r}. {_nearest(file[2], structures.ids.tolist())}")
    return _Found(structures.subset([row]), path.name, row), opened


def _in_run(id_: str, run: Run, round_: int | None) -> _Found:
    rounds = [pick_round(run, round_)] if round_ is not None else run.rounds()[::-1]
    known: list[str] = []
    for paths in rounds:
        for structures, what, trained in _sets(paths):
            row = _row(structures, id_)
            if row is not None:
                return _Found(structures.subset([row]), what, row, paths if trained else None)
            known += structures.ids.tolist()
    if not known:
        pick_round(run, round_)  # says how to bring structures
    where = f"Round {round_} of {run.root}" if round_ is not None else str(run.root)
    raise UserError(f"{where} has no structure {id_!r}. {_nearest(id_, known)}")


def _sets(paths: RoundPaths) -> Iterator[tuple[StructureSet, str, bool]]:
    """The structure sets of a round, what each holds, and whether it is the training set."""
    from voxtal.structures.structure_set import StructureSet

    places = (
        (paths.structures, "training structure", True),
        (paths.candidates, "candidate", False),
        (paths.relax / "relaxed.h5", "relaxed candidate", False),
    )
    for path, what, trained in places:
        if path.is_file():
            yield StructureSet.read(path), f"{what} of round {paths.index}", trained


def _row(structures: StructureSet, id_: str) -> int | None:
    found = (structures.ids == id_).nonzero()[0]
    return int(found[0]) if len(found) else None


def _nearest(id_: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(id_, list(dict.fromkeys(known)), n=MAX_NAMED_IDS, cutoff=0.6)
    return f"The nearest ids are {', '.join(near)}." if near else _some(known)


def _some(ids: Sequence[str]) -> str:
    return f"Ids look like {', '.join(ids[:MAX_NAMED_IDS])}." if len(ids) else "It is empty."


def _networks(run: Run, found: _Found) -> Callable[[], Decoded] | None:
    """Makes what the trained autoencoders give back of a training structure; none where there are none yet."""
    paths = found.paths
    if paths is None or not paths.graphs.is_file():
        return None
    from voxtal.data.graphs import GraphSet
    from voxtal.training.separated import own_model

    graphs = GraphSet.read(paths.graphs)
    names = ("lattice-ae", "sites-ae", *map(own_model, graphs.separated))
    encoded = paths.graphs.stat().st_mtime
    models = [paths.train(name) / "best.pt" for name in names]
    if not all(model.is_file() and model.stat().st_mtime <= encoded for model in models):
        return None
    own = graphs.dense(graphs.rows == found.row)
    if not len(own):
        return None

    def decoded() -> Decoded:
        from voxtal.generation.stage import open_decoder

        return open_decoder(run, paths).decode(own)[0]

    return decoded
