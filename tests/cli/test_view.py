"""``voxtal view`` at the command line: what it finds, writes, prints and refuses."""

from __future__ import annotations

import csv
import gzip
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner, Result

from voxtal.cli.main import build_app
from voxtal.cli.portrait import portrait
from voxtal.config import build_config
from voxtal.errors import UserError
from voxtal.reports.view_panels import Cloud, Crystal
from voxtal.runs import Run
from voxtal.structures.structure_set import StructureSet

REASON = "reason"


def view(*arguments: str | Path) -> Result:
    return CliRunner().invoke(build_app(), ["view", *map(str, arguments)])


def refusal(*arguments: str | Path) -> str:
    answer = view(*arguments)
    assert isinstance(answer.exception, UserError), answer.output
    return str(answer.exception)


class Loads(HTMLParser):
    """Addresses that a page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "source"):
            self.addresses += [str(value) for name, value in attributes if name in ("src", "href")]


@pytest.fixture(scope="module")
def structures(tmp_path_factory: pytest.TempPathFactory, copper_gold: list[Any]) -> Path:
    """A set of crystals, and of one that is none."""
    from pymatgen.core import Lattice, Structure

    perovskite = Structure(
        Lattice.cubic(3.905), ["Sr", "Ti", "O", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]],
    )  # fmt: skip
    clashing = Structure(Lattice.cubic(4), ["Cu", "Au"], [[0, 0, 0], [0.01, 0, 0]])
    path = tmp_path_factory.mktemp("view") / "crystals.h5"
    members = {"SrTiO3/bulk": perovskite, "Cu3Au": copper_gold[-3], "copper": copper_gold[0], "clashing": clashing}
    StructureSet.from_structures(list(members.values()), list(members)).write(path)
    return path


@pytest.mark.parametrize("representation", ["sites", "density"])
def test_writes_a_picture_and_a_page_of_a_set_without_a_run(
    representation: str, structures: Path, tmp_path: Path
) -> None:
    """The first thing that a user tries: a file and an id. Both files show the atoms; the page needs no network."""
    answer = view(f"{structures}:SrTiO3/bulk", "-o", tmp_path, "--representation", representation)
    assert answer.exit_code == 0, answer.exception
    name = tmp_path / ("SrTiO3_bulk" if representation == "sites" else "SrTiO3_bulk-density")
    assert {str(path) for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.html"}
    assert f"{name}.png" in answer.output
    assert re.search(r"formula +SrTiO3\n", answer.output)
    assert re.search(r"atoms +5\n", answer.output)
    assert re.search(r"decoded +matches, RMS \S+ Å", answer.output)
    image = imread(f"{name}.png")[..., :3]
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 500
    page = Path(f"{name}.html").read_text(encoding="utf-8")
    assert Loads(page).addresses == []
    for symbol in ("Sr", "Ti", "O"):
        assert f'"{symbol}' in page
    assert "fractional 0.500, 0.500, 0.500" in page
    assert "Cartesian 1.952, 1.952, 1.952" in page or "Cartesian 1.953, 1.953, 1.953" in page


def test_training_structures_are_shown_after_the_networks_too(trained_run: Run) -> None:
    """What the trained autoencoders make of a structure is the first question when candidates are bad."""
    answer = view("s23", "--run", trained_run.root)
    assert answer.exit_code == 0, answer.exception
    assert "training structure of round 0" in answer.output
    assert re.search(r"decoded after the networks +\w", answer.output)
    page = (trained_run.root / "view" / "s23.html").read_text(encoding="utf-8")
    assert "Decoded after the networks" in page


def test_old_graphs_are_not_decoded_with_new_networks(trained_run: Run) -> None:
    """Codes of another network would decode to nonsense that looks like a bad network."""
    best = trained_run.round(0).train("sites-ae") / "best.pt"
    best.touch()
    answer = view("s23", "--run", trained_run.root)
    assert answer.exit_code == 0
    assert "networks" not in answer.output


def test_candidates_relaxed_ones_and_rounds(trained_run: Run, structures: Path) -> None:
    """Ids of a run are found wherever they lie, in the newest round first, unless one round is asked for."""
    paths, crystals = trained_run.round(0), StructureSet.read(structures)
    reasons = {REASON: ["", "no cell"]}
    StructureSet.from_structures(
        [crystals.structure(2), crystals.structure(3)], ["r0-000000", "r0-000001"], provenance=reasons
    ).write(paths.candidates)
    crystals.subset([1]).write(paths.relax / "relaxed.h5")
    second = trained_run.round(1)
    crystals.subset([2]).write(second.structures)
    for id_, what in (
        ("r0-000000", "candidate of round 0"),
        ("Cu3Au", "relaxed candidate of round 0"),
        ("copper", "training structure of round 1"),
    ):
        answer = view(id_, "--run", trained_run.root)
        assert answer.exit_code == 0, answer.exception
        assert f"{id_}, {what}" in answer.output
        assert "networks" not in answer.output
        assert (trained_run.root / "view" / f"{id_}.png").is_file()
    assert "r0-000001 (candidate of round 0) has no voxels: no cell." in refusal("r0-000001", "--run", trained_run.root)
    message = refusal("copper", "--run", trained_run.root, "--round", "0")
    assert message.startswith(f"Round 0 of {trained_run.root} has no structure 'copper'.")


def test_unknown_ids_name_the_nearest(structures: Path, trained_run: Run) -> None:
    """A typo in an id must not send the user to search a table of thousands."""
    assert "has no structure 'Cu3Aux'. The nearest ids are Cu3Au." in refusal(f"{structures}:Cu3Aux")
    assert "holds 4 structures; name one" in refusal(structures)
    message = refusal("s233", "--run", trained_run.root)
    assert "s23" in message[message.index("nearest") :]
    assert "Ids look like s0, s1" in refusal("mp-554973", "--run", trained_run.root)


def test_structures_without_voxels_say_why(structures: Path, tmp_path: Path) -> None:
    """The reason that voxelize records; nothing is written."""
    message = refusal(f"{structures}:clashing", "-o", tmp_path / "out")
    assert "clashing (crystals.h5) has no voxels: atoms closer than" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.h5:x"], "No structure set at nothing.h5"),
        (["x"], "No configuration at voxtal.toml"),
        (["nothing.h5:x", "--round", "1"], "--round belongs to an ID of a run"),
        (["nothing.h5:x", "--set", "voxels.grid=3"], "unknown key 'voxels.grid'"),
    ],
)
def test_wrong_use_exits_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    """One message and the exit code of wrong use, from the real command."""
    command = [str(Path(sys.executable).with_name("voxtal")), "view", *arguments]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


def test_what_does_not_come_back_is_shown_as_such(structures: Path, tmp_path: Path) -> None:
    """Published density maps know no angles: a skewed cell comes back as another crystal, and the view says so."""
    preset = ("--representation", "density", "--set", "preset=paper")
    answer = view(f"{structures}:copper", "-o", tmp_path, *preset)
    assert answer.exit_code == 0, answer.exception
    assert re.search(r"decoded +differs: no match", answer.output)


def test_real_structures(shared_data: Path, tmp_path: Path) -> None:
    """Cells as databases list them, atoms on faces and outside of the box's middle."""
    from pymatgen.core import Structure

    with gzip.open(shared_data / "mp_20_binary_ternary.csv.gz", "rt", newline="") as handle:
        rows = list(islice(csv.DictReader(handle), 40))
    largest = max(rows, key=lambda row: row["cif"].count("\n"))
    crystal = Structure.from_str(largest["cif"], fmt="cif")
    path = tmp_path / "real.h5"
    StructureSet.from_structures([crystal], [largest["material_id"]]).write(path)
    answer = view(f"{path}:{largest['material_id']}", "-o", tmp_path)
    assert answer.exit_code == 0, answer.exception
    assert re.search(rf"atoms +{len(crystal)}\n", answer.output)
    assert re.search(r"decoded +matches, RMS (0\.00|\d\S*e-)", answer.output)
    assert (tmp_path / f"{largest['material_id']}.png").stat().st_size < 400_000


@pytest.mark.parametrize("section", ["voxels", "density"])
@pytest.mark.parametrize("handedness", [1, -1])
def test_all_panels_have_one_origin(section: str, handedness: int) -> None:
    """Clouds beside the atoms that they show, or a mirrored crystal, would make the picture a lie."""
    random = np.random.default_rng(4)
    for _ in range(10):
        cell = np.diag(random.uniform(4, 6, 3) * [handedness, 1, 1]) + random.uniform(-1.2, 1.2, (3, 3))
        frac_coords = np.array([[0.1, 0.1, 0.1], [0.6, 0.6, 0.1], [0.1, 0.6, 0.6]]) + random.uniform(0, 0.2, (3, 3))
        structures = StructureSet(
            np.array(["x"]), np.array([0, 3]), np.array([12, 13, 13], np.uint8), frac_coords, cell[None]
        )
        panels = portrait(structures, "test", getattr(build_config({}), section)).view.panels
        crystal, decoded = panels[0].crystal, panels[-1].crystal
        assert crystal is not None
        assert decoded is not None
        assert max(_distance(crystal, *atom) for atom in _atoms(decoded)) < 2e-3
        assert max(_distance(crystal, *peak) for peak in _peaks(panels[1].clouds)) < 0.6


def _atoms(crystal: Crystal) -> list[tuple[str, np.ndarray]]:
    return list(zip(crystal.symbols, crystal.frac_coords @ crystal.cell, strict=True))


def _peaks(clouds: Iterable[Cloud]) -> Iterator[tuple[str, np.ndarray]]:
    for cloud in clouds:
        for index in np.argwhere(cloud.values > 0.9 * cloud.values.max()):
            yield cloud.name, cloud.origin + index @ cloud.steps


def _distance(crystal: Crystal, symbol: str, position: np.ndarray) -> float:
    """To the nearest atom of that element, in any cell."""
    same = crystal.frac_coords[np.array(crystal.symbols) == symbol]
    shifts = np.array(list(product((-1, 0, 1), repeat=3)))
    steps = same - np.linalg.solve(crystal.cell.T, position)
    steps -= np.rint(steps)
    return float(np.linalg.norm((steps[:, None] + shifts) @ crystal.cell, axis=-1).min())
