"""Pieces of HTML: sections, tables, figures as data addresses, numbers and formulas."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from voxtal.reports.summary import wilson_interval


def section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 10**6, id_column: bool = False
) -> str:
    """Columns and cells are HTML; columns from number ``numbers_from`` on are right-aligned."""

    def css(k: int) -> str:
        if k >= numbers_from:
            return ' class="number"'
        return ' class="id"' if id_column and k == 0 else ""

    head = "".join(f"<th{css(k)}>{name}</th>" for k, name in enumerate(columns))
    body = "".join("<tr>" + "".join(f"<td{css(k)}>{cell}</td>" for k, cell in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def data_uri(content: bytes, mime: str) -> str:
    """``content`` as a ``data:`` address."""
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def share(value: float | None, n: int) -> str:
    if value is None or not n:
        return "–"
    low, high = wilson_interval(round(value * n), n)
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def fixed(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def formula_html(text: str) -> str:
    """A formula with its counts as subscripts; a space group number after it stays as it is."""
    formula, _, rest = text.partition(" ")
    out = ""
    for character in formula:
        out += f"<sub>{character}</sub>" if character.isdigit() else escape(character)
    return (f"{out} {escape(rest)}" if rest else out).replace("</sub><sub>", "")


def preformatted(text: str) -> str:
    return f"<pre>{escape(text.strip())}</pre>"


def svg_figure(svg: str, title: str) -> str:
    source = data_uri(svg.encode(), "image/svg+xml")
    return f'<figure><h3>{escape(title)}</h3><img alt="{escape(title)}" src="{source}"></figure>'
