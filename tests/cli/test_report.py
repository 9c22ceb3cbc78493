"""``voxtal report`` on a run directory with real files."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from voxtal.cli.report import report
from voxtal.errors import UserError


class _Page(HTMLParser):
    """Collects text, and every address that a browser would load."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def reported(shared_run_directory: Path) -> Path:
    """A run directory with its report."""
    report(shared_run_directory)
    return shared_run_directory


@pytest.fixture(scope="module")
def page(reported: Path) -> _Page:
    """The whole run's page, parsed."""
    return _Page((reported / "report" / "index.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_and_needs_nothing_else(page: _Page) -> None:
    """A page that loads from the network is empty on a cluster and after a copy."""
    assert page.open == []
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_the_page_shows_every_part(page: _Page) -> None:
    """Each of these is promised; a section that is dropped would go unnoticed."""
    for heading in (
        "Rounds",
        "Convex hull",
        "Best structures",
        "Candidates",
        "From attempts to candidates",
        "Withheld phases",
        "Reproduction",
        "Training",
        "Formation-energy constraint",
        "Methods and versions",
        "Commands to repeat",
    ):
        assert heading in page.text
    assert "26 of 40 attempts" in page.text
    assert "failed: volume exploded" in page.text
    assert "cell <cannot> be decoded: 2" in page.text
    assert "Not finished: round 1" in page.text
    assert "chgnet-0.3.0-1a2b3c4d" in page.text
    pictures = [address for address in page.addresses if "svg" in address]
    assert len(pictures) == 2 + 4 + 1  # two structures, four models, one parity plot


def test_candidates_are_sorted_by_energy_above_hull(page: _Page) -> None:
    """The best candidate must be on top, and those without an energy last."""
    ids = re.findall(r"r0-\d{5}", page.text[page.text.index("Candidates") :])
    assert ids[:3] == ["r0-00007", "r0-00012", "r0-00030"]


def test_summary_holds_every_finished_round_and_the_targets(reported: Path) -> None:
    """Scripts and docs/results.md read this file."""
    summary = json.loads((reported / "report" / "summary.json").read_text())
    assert (summary["system"], summary["preset"], summary["seed"]) == ("Co-Hf", "laptop", 7)
    assert [entry["round"] for entry in summary["rounds"]] == [0]
    assert summary["wall_seconds"] == pytest.approx(371.4)
    assert {target["name"]: target["met"] for target in summary["targets"]} == {
        "Reproduction ratio": True,
        "Valid structures": True,
        "Best energy above hull": True,
    }


def test_each_round_has_its_page(reported: Path) -> None:
    """A round's page must show that round alone."""
    first = (reported / "round-000" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Round 0;" in first
    assert "Not finished" not in first
    assert (reported / "round-001" / "report" / "index.html").is_file()


def test_a_second_report_is_the_same_and_leaves_the_rounds_alone(
    reported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that differs each time cannot be compared; a round's summary.json belongs to the round."""
    files = [reported / "report" / "index.html", reported / "round-000" / "report" / "summary.json"]
    before = [path.read_bytes() for path in files]
    report(reported)
    assert [path.read_bytes() for path in files] == before
    assert "Reproduction ratio: 0.975 (target at least 0.95: met" in capsys.readouterr().out


def test_nothing_to_report_says_what_to_run(tmp_path: Path) -> None:
    """An empty page would look like a result."""
    (tmp_path / "voxtal.toml").write_text("")
    with pytest.raises(UserError, match="voxtal round"):
        report(tmp_path)


def test_a_broken_file_is_named(run_directory: Path) -> None:
    """A truncated result must give its path, not a traceback."""
    (run_directory / "round-000" / "hull" / "hull.json").write_text('{"entries": [')
    with pytest.raises(UserError, match=r"hull\.json"):
        report(run_directory)
