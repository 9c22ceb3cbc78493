"""The report's page: plain data in, one self-contained HTML document out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from voxtal.reports.figures import SPLIT_NAMES, loss_figure, parity_figure
from voxtal.reports.html import (
    data_uri,
    fixed,
    formula_html,
    preformatted,
    section,
    share,
    svg_figure,
    table,
)
from voxtal.reports.run_data import RoundData
from voxtal.reports.summary import (
    E_ABOVE_HULL_TARGET,
    CandidateRow,
    Target,
    candidate_rows,
    targets,
    wilson_interval,
)

MODEL_TITLES = {
    "lattice-ae": "Lattice autoencoder",
    "sites-ae": "Sites autoencoder",
    "constraint": "Formation-energy constraint",
    "ccdcgan": "CCDCGAN",
    "flow": "Flow over tokens",
    "analogue": "Elements of analogues",
    "unet": "UNet",
    "vae": "VAE",
    "cgcnn": "CGCNN of the formation energy",
}
FUNNEL = ("attempts", "valid", "unique", "novel", "believable", "selected")
MAX_ROWS = 100
EF = "E<sub>f</sub>"
DELTA_EF = f'<span class="nowrap">|Δ{EF}|</span>'


@dataclass(frozen=True)
class Picture:
    """A drawing of one relaxed candidate."""

    svg: str
    row: CandidateRow
    elements: Mapping[str, str]
    """Symbol -> colour."""


@dataclass(frozen=True)
class Page:
    """All that a report shows."""

    title: str
    lead: str
    rounds: Sequence[RoundData]
    pictures: Sequence[Picture] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    """Methods and versions: name -> value."""
    config: str = ""
    """The run's voxtal.toml."""
    commands: Sequence[str] = ()


def render(page: Page) -> str:
    """The page as HTML that needs no network and no scripts."""
    rows = candidate_rows(page.rounds)
    newest = next((data for data in reversed(page.rounds) if data.hull_picture), None)
    body = [
        _cards(targets(page.rounds)),
        section("Rounds", _rounds_table(page.rounds)),
        section("Convex hull", _hull(newest)),
        section("Best structures", _gallery(page.pictures)),
        section("Candidates", _candidates_table(rows, page.rounds)),
        section("From attempts to candidates", "".join(map(_funnel, page.rounds))),
        section("Withheld phases", _rediscovered(page.rounds)),
        section("Reproduction", _reproduction(page.rounds)),
        section("Training", _losses(page.rounds)),
        section("Formation-energy constraint", _constraint(page.rounds)),
        section("Methods and versions", _methods(page)),
        section("Commands to repeat", preformatted("\n".join(page.commands)) if page.commands else ""),
    ]
    template = Template((files("voxtal.reports") / "report.html").read_text(encoding="utf-8"))
    return template.substitute(title=escape(page.title), lead=escape(page.lead), body="\n".join(body))


def _cards(figures: Iterable[Target]) -> str:
    verdicts = {
        True: ("met", "target met"),
        False: ("missed", "target missed"),
        None: ("open", "no figure yet"),
    }
    cards = []
    for item in figures:
        css, verdict = verdicts[item.met]
        cards.append(
            f'<div class="card"><div class="name">{escape(item.name)}</div>'
            f'<div class="value">{fixed(item.value)} <small>{escape(item.unit)}</small></div>'
            f'<div class="verdict {css}">{verdict}: {escape(item.target)}</div>'
            f'<div class="detail">{escape(item.detail)}</div></div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>'


ROUND_COLUMNS = {
    "n_training": "training structures",
    "reproduction_ratio_strict": "reproduction, strict",
    "heldout_reproduction_ratio_strict": "held out, strict",
    "n_attempts": "attempts",
    "n_valid": "valid",
    "n_unique": "unique",
    "n_novel": "novel",
    "n_relaxed": "relaxed",
    "mean_abs_delta_ef_ev_per_atom": f"mean {DELTA_EF}, eV/atom",
    "fraction_negative_ef": f"share with {EF} &lt; 0",
    "best_e_above_hull_ev_per_atom": "best E above hull, eV/atom",
    "wall_seconds": "time, s",
}


def _rounds_table(rounds: Sequence[RoundData]) -> str:
    rows = [
        [str(data.index), *(_value(key, data.summary.get(key)) for key in ROUND_COLUMNS)]
        for data in rounds
        if data.summary
    ]
    unfinished = [str(data.index) for data in rounds if not data.summary]
    note = f"Not finished: round {', '.join(unfinished)}." if unfinished else ""
    counts = f"Mean {DELTA_EF} and the share with {EF} &lt; 0 are over the relaxed candidates of the round."
    rows_table = table(["round", *ROUND_COLUMNS.values()], rows, numbers_from=1) if rows else ""
    return f'{rows_table}<p class="note">{counts if rows else ""} {note}</p>'


def _value(key: str, value: Any) -> str:
    return fixed(value, 0) if key.startswith("n_") or key == "wall_seconds" else fixed(value)


def _hull(data: RoundData | None) -> str:
    if data is None or data.hull_picture is None:
        return ""
    entries = data.hull.get("entries", [])
    new = [entry for entry in entries if entry["on_hull"] and entry["role"] == "candidate"]
    caption = (
        f"Round {data.index}: {len(entries)} entries, all by {data.hull.get('method', 'one method')}. "
        f"{len(new)} of the {sum(bool(entry['on_hull']) for entry in entries)} entries on the hull "
        f"{'is a candidate' if len(new) == 1 else 'are candidates'} of this run."
    )
    source = data_uri(data.hull_picture, "image/png")
    return (
        f'<figure class="wide"><img alt="Formation energy against composition with the convex hull" '
        f'src="{source}"><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _gallery(pictures: Sequence[Picture]) -> str:
    figures = []
    for picture in pictures:
        row = picture.row
        legend = "".join(
            f'<span class="swatch" style="background:{colour}"></span>{escape(symbol)}'
            for symbol, colour in picture.elements.items()
        )
        figures.append(
            f'<figure><img alt="Unit cell of {escape(row.formula)}" '
            f'src="{data_uri(picture.svg.encode(), "image/svg+xml")}"><figcaption>'
            f"<b>{formula_html(row.formula)}</b> {escape(row.spacegroup)} {legend}<br>"
            f"E above hull {fixed(row.e_above_hull)} eV/atom<br>round {row.round}, {escape(row.id)}"
            "</figcaption></figure>"
        )
    return f'<div class="gallery">{"".join(figures)}</div>' if figures else ""


CANDIDATE_COLUMNS = (
    "candidate",
    "round",
    "formula",
    "space group",
    "outcome",
    f"predicted {EF}",
    f"{EF} before",
    f"{EF} after",
    DELTA_EF,
    "E above known hull",
    "E above hull",
)


def _candidates_table(rows: Sequence[CandidateRow], rounds: Sequence[RoundData]) -> str:
    if not rows:
        return ""
    body = [
        [
            escape(row.id),
            str(row.round),
            formula_html(row.formula),
            escape(row.spacegroup),
            escape(row.outcome),
            *(
                fixed(value)
                for value in (
                    row.predicted,
                    row.before,
                    row.after,
                    row.change,
                    row.e_above_known_hull,
                    row.e_above_hull,
                )
            ),
        ]
        for row in rows[:MAX_ROWS]
    ]
    attempts = sum(len(data.candidates) for data in rounds)
    labelled = sum(row.after is not None for row in rows)
    stable = [row.e_above_hull for row in rows if row.e_above_hull is not None]
    within = sum(value <= E_ABOVE_HULL_TARGET for value in stable)
    note = (
        f"Energies in eV/atom. {len(rows)} of {attempts} attempts were selected; {labelled} of them have a "
        f"relaxed energy; {within} of those lie within {E_ABOVE_HULL_TARGET} eV/atom of the hull. E above "
        "known hull is against elements, training and withheld phases only: negative means below it."
    )
    if len(rows) > MAX_ROWS:
        note += f" The first {MAX_ROWS} are shown; all are in round-NNN/screen/candidates.csv and relax/."
    return table(CANDIDATE_COLUMNS, body, numbers_from=5, id_column=True) + f'<p class="note">{note}</p>'


def _funnel(data: RoundData) -> str:
    counts = dict(data.evaluation.get("funnel", {}))
    if not counts.get("attempts"):
        return ""
    relaxed = sum(result.get("status") != "failed" for result in data.calculations.values())
    counts["relaxed"] = relaxed
    attempts = counts["attempts"]
    rows = []
    for name in (*FUNNEL, "relaxed"):
        count = counts.get(name)
        if count is not None:
            low, high = wilson_interval(count, attempts)
            of_all = f"{count / attempts:.1%}" + (f" ({low:.1%} to {high:.1%})" if name != "attempts" else "")
            bar = f'<div style="width:{100 * count / attempts:.1f}%"></div>'
            rows.append(
                f'<tr><td>{name}</td><td class="number">{count}</td><td class="bar">{bar}</td>'
                f'<td class="number">{of_all}</td></tr>'
            )
    reasons = sorted(data.evaluation.get("invalid_reasons", {}).items(), key=lambda item: -item[1])
    why = "; ".join(f"{escape(reason)}: {count}" for reason, count in reasons)
    return (
        f'<h3>Round {data.index}</h3><div class="scroll"><table class="funnel"><tr><th></th>'
        '<th class="number">count</th><th class="bar"></th>'
        '<th class="number">share of all attempts (95% Wilson interval)</th></tr>'
        f"{''.join(rows)}</table></div>"
        f'<p class="note">{f"Invalid: {why}." if why else ""}</p>'
    )


def _rediscovered(rounds: Sequence[RoundData]) -> str:
    rows = [
        [str(data.index), formula_html(str(found["phase"])), _yes(found["generated"]), _yes(found["relaxed"])]
        for data in rounds
        for found in data.summary.get("rediscovered") or []
    ]
    if not rows:
        return ""
    note = "These phases were kept out of the training set; generated: a candidate matches before relaxation."
    columns = ("round", "withheld phase", "generated", "found after relaxation")
    return table(columns, rows) + f'<p class="note">{note}</p>'


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def _reproduction(rounds: Sequence[RoundData]) -> str:
    rows = []
    for data in rounds:
        for split, figures in data.evaluation.get("reproduction", {}).items():
            n = figures["n"]
            shares = [share(figures.get(matcher), n) for matcher in ("strict", "cdvae")]
            rows.append([str(data.index), SPLIT_NAMES.get(split, split), str(n), *shares])
    if not rows:
        return ""
    columns = ("round", "structures", "n", "strict (0.2, 0.3, 5°)", "CDVAE (0.3, 0.5, 10°)")
    note = (
        "Share of structures that decode(encode(s)) gives back, by pymatgen's StructureMatcher at two usual "
        "settings, with 95% Wilson intervals."
    )
    return table(columns, rows, numbers_from=2) + f'<p class="note">{note}</p>'


def _losses(rounds: Sequence[RoundData]) -> str:
    figures = []
    for model in dict.fromkeys(model for data in rounds for model in data.metrics):
        curves = {data.index: data.metrics[model] for data in rounds if data.metrics.get(model)}
        if curves:
            figures.append(
                svg_figure(loss_figure(curves), MODEL_TITLES.get(model, model.replace("-", ": ", 1).capitalize()))
            )
    return f'<div class="figures">{"".join(figures)}</div>' if figures else ""


def _constraint(rounds: Sequence[RoundData]) -> str:
    rows = []
    for data in rounds:
        for split in ("train", "heldout"):
            figures = data.evaluation.get("constraint", {}).get(split)
            if figures:
                numbers = [str(figures["n"]), fixed(figures.get("mae")), fixed(figures.get("r2"))]
                rows.append([str(data.index), SPLIT_NAMES[split], *numbers])
    if not rows:
        return ""
    newest = [data for data in rounds if data.evaluation.get("constraint", {}).get("parity")][-1:]
    figure = "".join(
        svg_figure(parity_figure(data.evaluation["constraint"]["parity"]), f"Parity, round {data.index}")
        for data in newest
    )
    scores = table(("round", "structures", "n", "MAE, eV/atom", "R²"), rows, numbers_from=2)
    return f'<div class="figures">{figure}<div>{scores}</div></div>'


def _methods(page: Page) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in page.facts.items())
    config = f"<details><summary>voxtal.toml</summary>{preformatted(page.config)}</details>" if page.config else ""
    return (f"<dl>{facts}</dl>" if facts else "") + config
