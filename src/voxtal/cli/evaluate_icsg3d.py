"""``voxtal evaluate --model icsg3d``: tables beside the paper's, a file with every figure, and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from voxtal.cli.common import open_run, pick_round, print_table, progress
from voxtal.cli.evaluation_tables import mean_text, share_text
from voxtal.errors import UserError

if TYPE_CHECKING:
    from voxtal.parallel.communicator import Communicator
    from voxtal.runs import RoundPaths
    from voxtal.screening.icsg3d_stage import Evaluation

FOLDER = "icsg3d"
"""Below the round's ``evaluate``."""
SPLITS = {"heldout": "held out", "train": "trained on"}
SOURCES = {"unet": "true maps", "vae": "through the VAE"}
_TITLES = {
    "a_error_angstrom": "error of a, A",
    "b_error_angstrom": "error of b, A",
    "c_error_angstrom": "error of c, A",
    "emd_angstrom": "earth mover's distance of sites, A",
    "missing_sites": "|dN_sites|",
    "label_recall": "UNet's recall of non-zero classes",
    "vae_mse": "VAE's mean squared error",
    "valid": "random samples: valid (0.5 A)",
    "negative_ef_of_valid": "random samples: E_f < 0, of valid",
    "known_formula_of_valid": "random samples: formula is known, of valid",
    "known_formula_ef_mae_ev_per_atom": "these: |E_f - known|, eV/atom",
    "known_formula_length_mae_angstrom": "these: |a, b, c - known|, A",
}


def evaluate_round(
    run: Path, overrides: list[str], round_: int | None, name: str | None, communicator: Communicator
) -> None:
    """Judge a round and its attempts, those called ``name`` where there is one. Collective."""
    from voxtal.parallel.communicator import on_root
    from voxtal.runs import exclusive
    from voxtal.screening.icsg3d_stage import evaluate_icsg3d

    opened = on_root(communicator, lambda: open_run(run, overrides))
    paths = on_root(communicator, lambda: _paths_of(pick_round(opened, round_), name))
    folder = paths.root / "evaluate" / (FOLDER if name is None else f"{FOLDER}-{name}")
    with ExitStack() as stack:

        def lock() -> None:
            stack.enter_context(exclusive(folder, "voxtal evaluate"))

        on_root(communicator, lock)
        found = evaluate_icsg3d(opened, paths, progress, communicator)
        on_root(communicator, lambda: _conclude(found, paths, folder))


def _paths_of(paths: RoundPaths, name: str | None) -> RoundPaths:
    if name is None:
        return paths
    named = replace(paths, attempts=paths.candidates.parent / name)
    if not named.candidates.is_file():
        raise UserError(
            f"There are no attempts at {named.candidates}; make them with `voxtal generate --model icsg3d` and --name."
        )
    return named


def _conclude(found: Evaluation, paths: RoundPaths, folder: Path) -> None:
    from voxtal.runs import write_json
    from voxtal.screening.icsg3d import PUBLISHED, PUBLISHED_MAE
    from voxtal.screening.icsg3d_stage import write_rows

    published = {"figures": PUBLISHED, "property_mae": PUBLISHED_MAE}
    write_json(folder / "evaluation.json", {**found.figures, "published": published})
    write_rows(folder / "structures.csv", found.rows)
    write_rows(folder / "attempts.csv", found.attempts)
    draw(found, folder)
    print_tables(found.figures)
    if left_out := found.figures.get("without_condition"):
        typer.echo(f"{left_out} structures have no value of what the VAE is told, and are not judged.")
    for model in found.figures["missing"]:
        typer.echo(f"There is no {model} in {paths.root} to judge yet; make it with `voxtal train {model}`.")
    if "attempts" not in found.figures:
        typer.echo(f"There are no attempts at {paths.candidates} to judge yet.")
    typer.echo(f"{folder}: evaluation.json, structures.csv and attempts.csv as far as there are any, figures as PNG")


def draw(found: Evaluation, folder: Path) -> None:
    """Write the figures that there is something for."""
    import numpy as np

    from voxtal.reports import icsg3d_figures as figures

    if found.codes is not None:
        figures.code_density_figure(found.codes, folder / "codes.png")
    if found.embedding is not None:
        figures.embedding_figure(**found.embedding, path=folder / "tsne.png")
    for name, slices in (("reconstructions", found.reconstructions), ("interpolations", found.interpolations)):
        if slices is not None:
            labels = slices.row_labels, slices.column_labels
            figures.slices_figure(slices.density, *labels, False, folder / f"{name}-density.png")
            figures.slices_figure(slices.species, *labels, True, folder / f"{name}-species.png")
    held = [row for row in found.rows if row["split"] == "heldout"]
    if held and "vae_mse" in held[0]:
        from voxtal.screening.icsg3d import PUBLISHED

        keys = {f"vae_{edge}_error": f"{edge}_error_angstrom" for edge in "abc"}
        keys |= {"vae_voxtal_emd": "emd_angstrom", "vae_voxtal_missing": "missing_sites"}
        errors = {_TITLES[key]: np.array([row[column] for row in held], dtype=float) for column, key in keys.items()}
        figures.errors_figure(errors, {_TITLES[key]: PUBLISHED[key] for key in keys.values()}, folder / "errors.png")
    logarithmic = [name for name, one in found.figures.get("properties", {}).items() if one["log10"]]
    figures.property_parity_figure(found.parity, logarithmic, folder / "parity.png")
    if "attempts" in found.figures:
        attempts = found.figures["attempts"]
        counts = {name: one["n"] for name, one in attempts["types"].items()}
        figures.formula_types_figure(found.energies_by_type, counts, attempts["elements"], folder / "formula-types.png")


def print_tables(figures: Mapping[str, Any]) -> None:
    """Print all figures of an evaluation."""
    maps = {split: part for split, part in figures.get("maps", {}).items() if part["n"]}
    if maps:
        _print_voxels(maps)
        _print_crystals(maps)
    if codes := figures.get("codes"):
        used = f"{codes['used_dimensions']} of {codes['dimensions']}"
        row = (codes["n"], f"{codes['code_mean']:.3f}", f"{codes['code_variance']:.3f}", used)
        columns = ("structures", "mean (published 0)", "variance (published 0.99)", "dimensions that tell them apart")
        print_table("Codes", columns, [row])
    if properties := figures.get("properties"):
        _print_properties(properties)
    if attempts := figures.get("attempts"):
        _print_attempts(attempts)
    _print_beside_paper(maps, figures.get("attempts"))


def _print_voxels(maps: Mapping[str, Any]) -> None:
    columns = ("structures", "maps", "n", "recall of labels", "recall", "precision", "F1", "pooled recall", "pooled F1")
    rows = []
    for split, part in maps.items():
        for source, title in SOURCES.items():
            if source in part:
                found = part[source]["voxels"]
                means = [f"{found[key]['mean']:.1%}" for key in ("label_recall", "recall", "precision", "f1")]
                pooled = [f"{found['pooled'][key]:.1%}" for key in ("recall", "f1")]
                rows.append((SPLITS[split], title, _of(part), *means, *pooled))
    print_table("Species maps, classes but the background", columns, rows)


def _print_crystals(maps: Mapping[str, Any]) -> None:
    cells = [
        (SPLITS[split], *map(mean_text, part["vae"]["cells"].values())) for split, part in maps.items() if "vae" in part
    ]
    if cells:
        print_table("Cells through the VAE", ("structures", "|da|, A", "|db|, A", "|dc|, A"), cells)
    cases = [
        (f"{SPLITS[split]}, {title}", decoder, part[source]["crystals"][decoder])
        for split, part in maps.items()
        for source, title in SOURCES.items()
        if source in part
        for decoder in part[source]["crystals"]
    ]
    shares = ("decoded", "all_sites", "composition", "strict", "cdvae")
    columns = ("structures, maps", "decoder", "any sites", "right number", "right composition", "strict", "CDVAE")
    rows = [(where, decoder, *(share_text(found[key]) for key in shares)) for where, decoder, found in cases]
    print_table("Maps to crystals, of all (95% intervals)", columns, rows)
    titles = ("structures, maps", "decoder", "EMD, A", "|dN_sites|", "n")
    keys = ("emd_angstrom", "missing_sites")
    errors = [
        (where, decoder, *(_number(found[key]["mean"]) for key in keys), found["emd_angstrom"]["n"])
        for where, decoder, found in cases
    ]
    print_table("Their errors, means of those with sites", titles, errors)


def _print_properties(properties: Mapping[str, Any]) -> None:
    from voxtal.screening.icsg3d import PUBLISHED_MAE

    rows = []
    for name, found in properties.items():
        mae, unit = PUBLISHED_MAE.get(name, (None, "log10" if found["log10"] else ""))
        held, trained = found["heldout"], found["train"]
        errors = (held["n"], held["mae"], held["r2"], trained["n"], trained["mae"])
        rows.append((name, unit, mae, *(_number(value) if isinstance(value, float) else value for value in errors)))
    columns = ("property", "unit", "published MAE", "held out", "MAE", "R2", "trained on", "MAE")
    print_table("Properties by CGCNN", columns, rows)


def _print_attempts(attempts: Mapping[str, Any]) -> None:
    rows = [
        ("attempts", attempts["attempts"]),
        ("valid, sites more than 0.5 A apart", share_text(attempts["valid"])),
        ("valid by voxtal's rule", share_text(attempts["valid_voxtal"])),
        ("E_f < 0, of these", share_text(attempts["negative_ef_of_valid"])),
        ("formula types", attempts["n_types"]),
        ("elements", attempts["n_elements"]),
    ]
    print_table("Attempts (95% intervals)", ("figure", ""), rows)
    types = [(name, one["n"], one["median_formation_energy_ev_per_atom"]) for name, one in attempts["types"].items()]
    print_table("Commonest formula types", ("type", "valid attempts", "median E_f, eV/atom"), types)
    print_table("Commonest elements", ("element", "valid attempts"), list(attempts["elements"].items()))
    for name, one in attempts["asked"].items():
        correlation = "-" if one["spearman"] is None else f"{one['spearman']:.2f}"
        columns = (f"{name} asked", *(f"{10 * k}-{10 * k + 10}%" for k in range(10)), "Spearman's correlation")
        row = ("mean prediction", *(f"{value:.2f}" for value in one["means"]), correlation)
        print_table("Valid attempts, tenths from the lowest that was asked", columns, [row])
    if attempts["reasons"]:
        print_table("Not valid", ("reason", "n"), list(attempts["reasons"].items()))


def _print_beside_paper(maps: Mapping[str, Any], attempts: Mapping[str, Any] | None) -> None:
    rows = [(_TITLES[key], f"{published:.3g}", *texts) for key, published, texts in beside_paper(maps, attempts)]
    columns = ("figure", "published", "held out", "held out, published decoder", "trained on")
    if rows:
        print_table("Beside the paper", columns, rows)


def beside_paper(maps: Mapping[str, Any], attempts: Mapping[str, Any] | None) -> list[tuple[str, float, list[str]]]:
    """Key, the paper's figure, and ours as text: held out, held out by the published decoder, trained on."""
    from voxtal.screening.icsg3d import PUBLISHED
    from voxtal.screening.icsg3d import beside_paper as of_split

    nothing: dict[str, Any] = {}
    cases = [
        of_split(maps.get(split, nothing), decoder)
        for split, decoder in (("heldout", "voxtal"), ("heldout", "published"), ("train", "voxtal"))
    ]
    rows = []
    for key, published in PUBLISHED.items():
        if any(key in case for case in cases):
            rows.append((key, published, [mean_text(case[key]) if key in case else "-" for case in cases]))
        elif attempts and key in attempts:
            one = attempts[key]
            rows.append((key, published, [share_text(one) if "share" in one else mean_text(one), "-", "-"]))
    return rows


def _of(part: Mapping[str, Any]) -> str:
    return str(part["n"]) if part["n"] == part["of"] else f"{part['n']} of {part['of']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
