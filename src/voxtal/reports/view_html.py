"""A view as one HTML file that turns under the mouse: plotly inside, no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from voxtal.reports.structure_picture import hex_colour, view_axes
from voxtal.reports.view_panels import Balls, Cloud, ElementStyle, Panel, View, balls_of, bounds, edges_of
from voxtal.runs import atomic_path

MAX_POINTS = 20_000
"""Voxels that one cloud is drawn with, the largest ones; more would not turn smoothly."""
_SCENE_PIXELS = 420
"""Width of a scene on a usual screen: what a voxel's size in pixels is reckoned from."""
_TITLE_PIXELS = 60
_OPACITY, _MIN_PIXELS = 0.3, 1.5
_EYE, _ZOOM = 2.0, 1.4
_LINK = """
const page = document.getElementById('{plot_id}');
let turning = false;
page.on('plotly_relayout', change => {
    const key = Object.keys(change).find(name => /^scene\\d*\\.camera$/.test(name));
    if (turning || !key) return;
    turning = true;
    const scenes = Object.keys(page._fullLayout).filter(name => /^scene\\d*$/.test(name));
    const same = Object.fromEntries(scenes.map(name => [name + '.camera', change[key]]));
    Plotly.relayout(page, same).then(() => { turning = false; });
});
"""
"""One camera for all panels."""
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>$title</title>
<style>
body { margin: 1em 1.5em; font-family: sans-serif; color: #22272e; }
h1 { margin: 0; font-size: 1.5em; }
p { margin: 0.3em 0 1em; color: #5a616b; }
</style></head>
<body>
<h1>$heading</h1>
<p>$subtitle. Turn with the mouse, all panels together; point at an atom or a voxel to read it.</p>
$body
</body>
</html>
""")


def write_view_html(view: View, path: Path) -> None:
    """Write ``view`` to ``path`` as HTML."""
    from plotly.graph_objects import Figure
    from plotly.subplots import make_subplots

    n = len(view.panels)
    titles = [f"<b>{escape(panel.title)}</b><br>{escape(panel.note)}".replace("\n", "<br>") for panel in view.panels]
    figure: Figure = make_subplots(
        rows=1, cols=n, specs=[[{"type": "scene"}] * n], subplot_titles=titles, horizontal_spacing=0.01
    )
    limits = bounds([panel for panel in view.panels if panel.physical], view.elements, np.eye(3))
    named: set[str] = set()
    for column, panel in enumerate(view.panels, start=1):
        own = limits if panel.physical else bounds([panel], view.elements, np.eye(3))
        width = float((own[1] - own[0]).max())
        for trace in _traces(panel, view.elements, width, named):
            figure.add_trace(trace, row=1, col=column)
        figure.update_scenes(_scene(own, panel.physical, n), row=1, col=column)
    figure.update_annotations(y=1, yanchor="top", yshift=_TITLE_PIXELS)
    figure.update_layout(
        margin={"l": 5, "r": 5, "t": _TITLE_PIXELS, "b": 5},
        legend={"orientation": "h", "itemsizing": "constant", "x": 0.5, "xanchor": "center", "y": 0},
        font={"family": "sans-serif", "color": "#22272e"},
    )
    body = figure.to_html(
        include_plotlyjs=True,
        full_html=False,
        div_id="view",
        default_height="calc(100vh - 7em)",
        post_script=_LINK,
        config={"displayModeBar": False, "responsive": True},
    )
    title, subtitle = escape(view.title), escape(view.subtitle)
    page = _PAGE.substitute(title=title, heading=_subscripted(title), subtitle=subtitle, body=body)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _scene(limits: np.ndarray, physical: bool, panels: int) -> dict[str, Any]:
    """Ranges, camera and size: ``limits`` (2, 3) are shown, smaller the more panels share the width."""
    middle, half = limits.mean(axis=0), (0.52 if physical else 0.7) * (limits[1] - limits[0]).max()
    hidden = {"visible": False}
    axes = {
        f"{name}axis": {**hidden, "range": [float(m - half), float(m + half)]}
        for name, m in zip("xyz", middle, strict=True)
    }
    camera = {
        "eye": dict(zip("xyz", (_EYE * view_axes()[2]).tolist(), strict=True)),
        "up": {"x": 0, "y": 0, "z": 1},
        "projection": {"type": "orthographic"},
    }
    return {
        **axes,
        "aspectmode": "manual",
        "aspectratio": dict.fromkeys("xyz", min(_ZOOM, 4 * _ZOOM / panels)),
        "camera": camera,
        "dragmode": "orbit",
    }


def _traces(panel: Panel, elements: Mapping[str, ElementStyle], width: float, named: set[str]) -> list[Any]:
    """What a panel shows; of each name the first trace only stands in the legend, and switches them all."""
    traces = [_edges(panel.frame)]
    if panel.crystal is not None and panel.crystal.symbols:
        balls = balls_of(panel.crystal, elements)
        traces += [_atoms(balls, symbol, style) for symbol, style in elements.items() if symbol in balls.symbols]
    traces += [_voxels(cloud, panel.physical, width) for cloud in panel.clouds]
    for trace in traces:
        if trace.name:
            trace.update(legendgroup=trace.name, showlegend=trace.name not in named)
            named.add(trace.name)
    return traces


def _edges(frame: np.ndarray) -> Any:
    from plotly.graph_objects import Scatter3d

    gap = np.full(3, np.nan)
    x, y, z = np.array([point for edge in edges_of(frame) for point in (*edge, gap)]).T
    line = {"color": "#7a828b", "width": 2}
    return Scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _atoms(balls: Balls, symbol: str, style: ElementStyle) -> Any:
    from plotly.graph_objects import Mesh3d

    sphere, faces = _sphere()
    chosen = [i for i, name in enumerate(balls.symbols) if name == symbol]
    points = np.concatenate([balls.centres[i] + balls.radii[i] * sphere for i in chosen])
    i, j, k = np.concatenate([faces + m * len(sphere) for m in range(len(chosen))]).T
    words = [
        f"{symbol}<br>fractional {_three(balls.frac_coords[m])}<br>Cartesian {_three(balls.centres[m])} Å"
        for m in chosen
    ]
    x, y, z = points.round(3).T
    return Mesh3d(
        x=x, y=y, z=z, i=i, j=j, k=k,
        name=symbol,
        color=hex_colour(np.array(style.colour)),
        text=[word for word in words for _ in sphere],
        hoverinfo="text",
        lighting={"ambient": 0.5, "diffuse": 0.7, "specular": 0.25, "roughness": 0.4},
        lightposition={"x": -90_000, "y": 100_000, "z": -60_000},
    )  # fmt: skip


def _voxels(cloud: Cloud, physical: bool, width: float) -> Any:
    from plotly.graph_objects import Scatter3d

    index, points = cloud.shown()
    values = cloud.values[tuple(index.T)]
    largest = np.argsort(-values, kind="stable")[:MAX_POINTS]
    index, points, values = index[largest], points[largest], values[largest]
    spacing = float(np.linalg.norm(cloud.steps, axis=1).mean()) / width * _SCENE_PIXELS
    unit = "Å" if physical else "edges"
    x, y, z = points.round(3).T
    return Scatter3d(
        x=x, y=y, z=z,
        mode="markers",
        name=cloud.name,
        marker={
            "size": np.maximum(spacing * values / values.max(initial=1e-12), _MIN_PIXELS).round(1),
            "color": hex_colour(np.array(cloud.colour)),
            "opacity": _OPACITY,
            "line": {"width": 0},
        },
        customdata=np.column_stack([index, values.astype(np.float64).round(5)]),
        hovertemplate=f"{cloud.name}, value %{{customdata[3]}}<br>voxel (%{{customdata[0]}}, %{{customdata[1]}}, "
        f"%{{customdata[2]}})<br>at %{{x}}, %{{y}}, %{{z}} {unit}<extra></extra>",
    )  # fmt: skip


def _sphere(rings: int = 11, points: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (m, 3) of a globe's crossings and its triangles (t, 3)."""
    polar = np.linspace(0, np.pi, rings)
    round_ = np.arange(points) * 2 * np.pi / points
    theta, phi = np.meshgrid(polar, round_, indexing="ij")
    vectors = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    ring, point = np.meshgrid(np.arange(rings - 1), np.arange(points), indexing="ij")
    here, beside = ring * points + point, ring * points + (point + 1) % points
    triangles = [np.stack([here, beside, here + points], -1), np.stack([beside, beside + points, here + points], -1)]
    return vectors.reshape(-1, 3), np.stack(triangles).reshape(-1, 3)


def _three(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def _subscripted(formula: str) -> str:
    return re.sub(r"(?<=[A-Za-z)])(\d+)", r"<sub>\1</sub>", formula)
