from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from voxtal.errors import UserError
from voxtal.reports.figure_labels import Label, add_labels, subscripted
from voxtal.reports.hull_figure import energy_window, hull_figure, hull_sheet
from voxtal.reports.hull_files import write_hull_files
from voxtal.screening.hull import (
    HullEntry,
    build_hull,
    build_hulls,
    lowest_elements,
    referenced,
    signed_heights,
)


def entry(id: str, role: str, energy: float, method: str = "", round: int = 0, **composition: float) -> HullEntry:
    return HullEntry(id, role, composition, energy, round=round, method=method)


CO_HF = [
    entry("laves", "withheld", -0.30, Co=4, Hf=2),
    entry("b2", "training", -0.36, Co=1, Hf=1),
    entry("high", "training", 0.20, Co=1, Hf=3),
    entry("stable", "candidate", -0.25, round=1, Co=2, Hf=5),
    entry("above", "candidate", -0.10, round=1, Co=1, Hf=2),
]


def rows_of(hull: dict) -> dict[str, dict]:
    return {row["id"]: row for row in hull["entries"]}


def test_a_candidate_below_the_known_hull_redefines_it():
    """A discovery would be reported as unstable, or an unstable candidate as a discovery."""
    hull = build_hull(CO_HF, "Co-Hf", "emt")
    rows = rows_of(hull)
    assert hull["known_hull"] == ["element-Co", "laves", "b2", "element-Hf"]
    assert hull["hull"] == ["element-Co", "laves", "b2", "stable", "element-Hf"]
    known_line = -0.36 * (2 / 7) / 0.5
    assert rows["stable"]["e_above_known_hull_ev_per_atom"] == pytest.approx(-0.25 - known_line)
    assert rows["stable"]["e_above_hull_ev_per_atom"] == 0.0
    assert rows["stable"]["on_hull"]
    assert rows["above"]["e_above_known_hull_ev_per_atom"] == pytest.approx(-0.10 + 0.24)
    assert rows["laves"]["x"] == pytest.approx(1 / 3)
    assert rows["laves"]["composition"] == {"Co": 4.0, "Hf": 2.0}


def test_hull_is_plain_json():
    """hull.json could not be written."""
    hull = build_hull(CO_HF, "Co-Hf", "emt")
    assert json.loads(json.dumps(hull, allow_nan=False)) == hull


def test_missing_elements_stand_at_zero_and_given_ones_are_not_doubled():
    """pymatgen refuses a hull without every element, or elements would be listed twice."""
    hull = build_hull([entry("co", "element", 0.0, Co=1), *CO_HF], "Co-Hf", "emt")
    assert [row["id"] for row in hull["entries"] if row["role"] == "element"] == ["element-Hf", "co"]


def test_an_element_that_is_not_in_its_ground_state_is_no_reference():
    """Everything would look more stable where only a high phase of an element is among the structures."""
    hull = build_hull([entry("high-co", "training", 0.2, Co=1), *CO_HF], "Co-Hf", "emt")
    assert rows_of(hull)["high-co"]["e_above_known_hull_ev_per_atom"] == pytest.approx(0.2)
    assert hull["known_hull"][0] == "element-Co"


def test_a_hull_of_nothing_is_its_elements():
    """The first round of a new run would end in a traceback."""
    assert build_hull([], "Co-Hf", "emt")["hull"] == ["element-Co", "element-Hf"]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6), st.floats(-0.5, 0.5)), max_size=12))
def test_distances_agree_with_a_hull_of_our_own(points):
    """Distances to the hull would be wrong for some arrangement of phases."""
    entries = [entry(f"p{k}", "training", e, Al=a, Ni=b) for k, (a, b, e) in enumerate(points)]
    hull = build_hull(entries, "Al-Ni", "emt")
    x = np.array([row["x"] for row in hull["entries"]])
    energy = np.array([row["formation_energy_ev_per_atom"] for row in hull["entries"]])
    for i in range(len(x)):
        assert hull["entries"][i]["e_above_hull_ev_per_atom"] == pytest.approx(
            energy[i] - lower_envelope(x, energy, x[i]), abs=1e-6
        )


def lower_envelope(x: np.ndarray, energy: np.ndarray, at: float) -> float:
    """Lowest mixture of any two points at composition ``at``, by trying all pairs."""
    best = energy[np.isclose(x, at)].min()
    for i in np.flatnonzero(x < at):
        for j in np.flatnonzero(x > at):
            share = (at - x[i]) / (x[j] - x[i])
            best = min(best, (1 - share) * energy[i] + share * energy[j])
    return best


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (entry("dft", "training", -0.1, method="vasp-pbe-1", Co=1), "different methods"),
        (entry("ternary", "training", -0.1, Co=1, O=1), "ternary holds O"),
        (entry("b2", "training", -0.1, Co=1), "Two entries of the hull are called b2"),
    ],
)
def test_what_does_not_belong_on_the_hull_is_refused(bad, message):
    """Energies of different methods or systems would meet on one hull."""
    with pytest.raises(UserError, match=message):
        build_hull([*CO_HF, bad], "Co-Hf", "emt")


def test_ternary_hull_has_triangles_and_a_figure(tmp_path):
    """Three-element systems would have no hull or no figure."""
    entries = [entry("x", "training", -0.5, Al=1, Cr=1, Mn=1), entry("y", "candidate", -0.1, Al=2, Cr=1)]
    hull = build_hull(entries, "Al-Cr-Mn", "emt")
    assert {len(facet) for facet in hull["facets"]} == {3}
    assert "x" not in rows_of(hull)["x"]
    hull_figure(hull, tmp_path / "hull.png")
    assert (tmp_path / "hull.png").read_bytes()[:4] == b"\x89PNG"


def test_figure_shows_the_hull_and_counts_what_it_leaves_out(tmp_path):
    """High energies would squash the hull, or be left out silently."""
    hull = build_hull([*CO_HF, entry("huge", "training", 9.0, Co=3, Hf=1)], "Co-Hf", "emt")
    low, high = energy_window(hull)
    assert low < -0.36
    assert 0 < high < 0.5
    hull_figure(hull, tmp_path / "hull.svg")
    svg = (tmp_path / "hull.svg").read_text()
    for text in ("1 more above", "known hull", "hull with candidates", "candidates, round 1"):
        assert f"<!-- {text}" in svg


def test_sheet_has_a_panel_for_each_system_and_marks_new_phases(tmp_path):
    """Fig. 5 would lack systems, or a discovery would look like any candidate."""
    relaxed = replace(CO_HF[3], formation_energy_before=-0.1)
    binary = build_hull([*CO_HF[:3], relaxed], "Co-Hf", "emt")
    ternary = build_hull([entry("x", "candidate", -0.5, Al=1, Cr=1, Mn=1)], "Al-Cr-Mn", "emt")
    hull_sheet([binary, ternary], tmp_path / "sheet.svg")
    svg = (tmp_path / "sheet.svg").read_text()
    for text in ("Co-Hf", "Al-Cr-Mn", "before relaxation", "new phase", "candidates", "Energy above hull"):
        assert f"<!-- {text}" in svg
    hull_sheet([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").is_file()


def test_labels_keep_off_each_other_and_inside():
    """Names of neighbouring phases could not be read."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    axes = Figure(figsize=(3, 2)).add_subplot()
    at = [(0.0, 0.0), (0.02, 0.0), (0.04, 0.0), (1.0, 1.0)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.figure.draw_without_rendering()
    add_labels(axes, [Label(point, "Co2Hf") for point in at], np.array(at))
    axes.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(label) for label in axes.texts]  # without the line to the point
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert all(axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max) for box in boxes)


def test_a_candidate_that_became_a_known_phase_is_no_new_one():
    """Rediscoveries would be counted as discoveries."""
    hull = build_hull([*CO_HF[:3], replace(CO_HF[3], same_as="laves")], "Co-Hf", "emt")
    rows = rows_of(hull)
    assert rows["stable"]["on_hull"]
    assert not rows["stable"]["new_phase"]
    assert rows_of(build_hull(CO_HF, "Co-Hf", "emt"))["stable"]["new_phase"]
    assert not rows_of(build_hull(CO_HF, "Co-Hf", "emt"))["above"]["new_phase"]


def test_figure_of_four_elements_is_refused(tmp_path):
    """A traceback of matplotlib instead of a sentence."""
    with pytest.raises(UserError, match="4 elements cannot be drawn"):
        hull_figure(build_hull([], "Al-Cr-Mn-Ni", "emt"), tmp_path / "hull.png")


def test_formulas_are_subscripted():
    """Labels would read Co2Hf5 instead of with subscripts."""
    assert subscripted("Co2Hf15") == "Co$_{2}$Hf$_{15}$"


def test_formation_energies_are_against_the_lowest_known_element():
    """Competing phases with a better element, and a pure candidate, would shift energies against each other."""
    total = [
        HullEntry("co-1", "element", {"Co": 2}, energy_per_atom=-6.9),
        HullEntry("co-2", "competing", {"Co": 1}, energy_per_atom=-7.0),
        HullEntry("co-3", "training", {"Co": 1}, energy_per_atom=-7.1),
        HullEntry("co-4", "candidate", {"Co": 1}, energy_per_atom=-7.2),
        HullEntry("hf", "training", {"Hf": 2}, energy_per_atom=-9.0),
        HullEntry("cohf", "candidate", {"Co": 1, "Hf": 1}, energy_per_atom=-8.4),
        HullEntry("coo", "candidate", {"Co": 1, "O": 1}, energy_per_atom=-8.4),
    ]
    references = lowest_elements(total)
    assert references == {"Co": -7.0, "Hf": -9.0}
    made = {e.id: e.formation_energy for e in referenced(total, references)}
    assert made == pytest.approx({"co-1": 0.1, "co-2": 0, "co-3": -0.1, "co-4": -0.2, "hf": 0, "cohf": -0.4})
    rows = rows_of(build_hull(referenced(total, references), "Co-Hf", ""))
    assert rows["co-4"]["e_above_known_hull_ev_per_atom"] == pytest.approx(-0.1)
    assert rows["cohf"]["e_above_hull_ev_per_atom"] == 0.0


def many_systems() -> list[HullEntry]:
    random = np.random.default_rng(5)
    entries = []
    for n in range(120):
        symbols = random.choice(["Al", "Cr", "Mn", "Ni"], random.integers(1, 5), replace=False)
        amounts = {str(s): float(random.integers(1, 4)) for s in symbols}
        role = "candidate" if n % 3 == 0 else "training"
        entries.append(entry(f"p{n}", role, float(random.normal(-0.1, 0.2)), **amounts))
    return entries


def test_heights_of_a_run_over_many_systems_are_those_of_one_large_hull():
    """A run over many systems would have no energies above hull, or leave subsystems out of them."""
    entries = many_systems()
    above_known, above = signed_heights(entries)
    rows = rows_of(build_hull(entries, "Al-Cr-Mn-Ni", "emt"))
    assert above_known == pytest.approx([rows[e.id]["e_above_known_hull_ev_per_atom"] for e in entries])
    assert above == pytest.approx([rows[e.id]["e_above_hull_ev_per_atom"] for e in entries])
    assert (above_known < 0).any()
    many = build_hulls(entries, "emt")
    assert many["system"] is None
    assert set(many["hull"]) == {row["id"] for row in many["entries"] if row["on_hull"]}


def test_space_groups_are_found_only_for_what_is_told():
    """A hull of ten thousand labels would take a minute of symmetry analysis."""
    made: list[str] = []

    def structure(id: str):
        made.append(id)
        return Structure(Lattice.cubic(3.0), ["Co", "Hf"], [[0, 0, 0], [0.5, 0.5, 0.5]])

    entries = [
        HullEntry(
            f"e{n}",
            "candidate" if n == 3 else "training",
            {"Co": 1, "Hf": 1},
            -0.3 + n / 10,
            structure=partial(structure, f"e{n}"),
        )
        for n in range(5)
    ]
    rows = rows_of(build_hull(entries, "Co-Hf", "emt"))
    assert made == ["e0", "e3"]
    assert (rows["e0"]["spacegroup"], rows["e1"]["spacegroup"]) == (221, None)


def test_files_of_a_hull(tmp_path):
    """The table would lack rows, or a hull of four elements or of many systems would fail for want of a figure."""
    hull = build_hull(CO_HF, "Co-Hf", "emt")
    written = write_hull_files(hull, tmp_path / "two")
    assert [path.name for path in written] == ["hull.json", "hull.csv", "hull.png", "hull.svg"]
    rows = list(csv.DictReader((tmp_path / "two" / "hull.csv").open()))
    assert {row["id"] for row in rows} == rows_of(hull).keys()
    assert float(rows[-1]["e_above_hull_ev_per_atom"]) == max(
        row["e_above_hull_ev_per_atom"] for row in hull["entries"]
    )
    for made in (build_hull(many_systems(), "Al-Cr-Mn-Ni", "emt"), build_hulls(many_systems(), "emt")):
        assert [path.name for path in write_hull_files(made, tmp_path / "four")] == ["hull.json", "hull.csv"]
