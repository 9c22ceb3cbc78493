"""``voxtal evaluate --model icsg3d`` on one round: what has been trained is judged, and what has been generated."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from voxtal.errors import UserError
from voxtal.generation.blocks import PREDICTED
from voxtal.generation.properties import load_property_networks, predict_properties, trained_properties
from voxtal.parallel.communicator import Communicator, on_root
from voxtal.parallel.tasks import advancing, results, shown
from voxtal.runs import RoundPaths, Run, atomic_path
from voxtal.screening.comparison import Progress
from voxtal.screening.icsg3d import (
    attempt_figures,
    attempt_rows,
    energies_by_type,
    latent_figures,
    map_figures,
    property_figures,
)
from voxtal.screening.icsg3d_models import (
    Latent,
    MapModels,
    Row,
    Slices,
    encode_block,
    interpolations,
    judge_block,
    reconstructions,
)
from voxtal.structures.formula_classes import class_of
from voxtal.structures.splits import HELDOUT, TRAIN, in_split
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.device import Arithmetic, one_thread
from voxtal.training.trainer import is_whole

BLOCK = 8
"""Structures that a rank takes at a time."""
MOST_TRAINING = 500
"""Structures of the training split that are judged, evenly spaced; all held-out ones are."""
MOST_EMBEDDED = 1500
"""Training structures that are encoded for the figures of codes; the paper has 5,000."""
INTERPOLATED, STEPS = 10, 8
"""Pairs, one for each decile of the formation energy, and codes on the line between the two."""
RECONSTRUCTED = 6


@dataclass
class Evaluation:
    """What was found, as figures for a file and as arrays for pictures.

    Attributes
    ----------
    figures
        JSON-able.
    rows, attempts
        One for each structure, and for each attempt.
    parity
        Property -> rows with ``split``, ``target`` and ``predicted``.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    attempts: list[Row] = field(default_factory=list)
    parity: dict[str, list[Row]] = field(default_factory=dict)
    codes: np.ndarray | None = None
    embedding: dict[str, Any] | None = None
    reconstructions: Slices | None = None
    interpolations: Slices | None = None
    energies_by_type: dict[str, list[float]] = field(default_factory=dict)


def evaluate_icsg3d(
    run: Run,
    paths: RoundPaths,
    progress: Progress,
    communicator: Communicator,
    most_training: int = MOST_TRAINING,
    pictures: bool = True,
) -> Evaluation:
    """Judge the UNet, the VAE and the CGCNNs of a round, as far as they are trained, and its attempts if there are any.

    Collective: every rank calls it; the answer is whole on rank 0.

    Raises
    ------
    UserError
        Nothing has been trained.
    """
    have_unet, have_vae, properties, have_attempts = on_root(communicator, lambda: _what_is_there(paths))
    out = Evaluation()
    out.figures["missing"] = [name for name, there in (("unet", have_unet), ("vae", have_vae)) if not there]
    with one_thread() if communicator.size > 1 else nullcontext():
        if have_unet:
            models = MapModels.of(run, paths)
            _judge_maps(out, models, progress, communicator, most_training)
            if communicator.rank == 0 and pictures:
                _picture(out, models, run.config.seed, progress)
    if properties:
        on_root(communicator, lambda: judge_properties(out, run, paths, properties, progress))
    if have_attempts:
        on_root(communicator, lambda: _judge_attempts(out, paths))
    return out


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV, 1 and 0 for yes and no; nothing where there are none."""
    if not rows:
        return
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(rows[0])
        writer.writerows([int(value) if isinstance(value, bool) else value for value in row.values()] for row in rows)


def _what_is_there(paths: RoundPaths) -> tuple[bool, bool, list[str], bool]:
    """UNet, VAE with one, properties of CGCNNs, attempts."""
    have_unet, have_vae = (is_whole(paths.train(name)) for name in ("unet", "vae"))
    properties = trained_properties(paths)
    if have_vae and not have_unet:
        raise UserError(
            f"{paths.train('vae')} has a VAE, but without a UNet its maps are no crystals: run `voxtal train unet`."
        )
    if not (have_unet or properties):
        raise UserError(
            f"{paths.root} has nothing of ICSG3D that is trained to its end: run `voxtal train unet`, then "
            "`voxtal train vae`, or `voxtal train cgcnn`."
        )
    return have_unet, have_vae, properties, paths.candidates.is_file()


def _judge_maps(
    out: Evaluation, models: MapModels, progress: Progress, communicator: Communicator, most_training: int
) -> None:
    """Rows and figures of held-out structures, and of some that were trained on."""
    rows = np.arange(models.dataset.n_structures)
    if models.vae is not None:
        rows = models.known(rows)
        if not len(rows) and models.condition is not None:
            raise UserError(
                f"No structure of {models.dataset.folder} has a finite {' and '.join(models.condition.properties)}, "
                "which the VAE is told: evaluate it in a round whose structures have it."
            )
        out.figures["without_condition"] = models.dataset.n_structures - len(rows)
    members = {name: rows[in_split(models.structures, models.dataset.rows[rows], name)] for name in (HELDOUT, TRAIN)}
    out.figures["maps"] = {}
    for split, every in members.items():
        chosen = _spaced(every, most_training) if split == TRAIN else every
        blocks = [chosen[first : first + BLOCK] for first in range(0, len(chosen), BLOCK)]
        with shown(progress, f"judge {split}", len(chosen), communicator) as advance:
            parts = results(
                communicator,
                len(blocks),
                lambda k, blocks=blocks: judge_block(models, blocks[k]),  # type: ignore[misc]
                advancing(advance, map(len, blocks)),
            )
        judged = [row for part in parts for row in part]
        out.rows += judged
        out.figures["maps"][split] = {"of": len(every), **map_figures(judged)}


def _picture(out: Evaluation, models: MapModels, seed: int, progress: Progress) -> None:
    """Arrays of the figures; on rank 0."""
    held = np.flatnonzero(in_split(models.structures, models.dataset.rows, HELDOUT))
    if models.vae is None:
        if len(held):
            out.reconstructions = reconstructions(models, _spaced(held, RECONSTRUCTED))
        return
    held = models.known(held)
    if len(held):
        out.reconstructions = reconstructions(models, _spaced(held, RECONSTRUCTED))
    trained = models.known(np.flatnonzero(in_split(models.structures, models.dataset.rows, TRAIN)))
    if not len(trained):
        return
    codes = _encoded(models, _spaced(trained, MOST_EMBEDDED), progress)
    out.codes = codes.drawn(seed)
    out.figures["codes"] = latent_figures(codes, seed)
    rows = models.dataset.rows[codes.rows]
    energies = models.structures.properties.get(FORMATION_ENERGY, np.full(len(models.structures), np.nan))[rows]
    if len(rows) >= 3:
        with progress("t-SNE", 1) as advance:
            places = _in_a_plane(codes.mean)
            advance(1, "")
        classes = [class_of(models.structures.arrays(int(row))[0]) or "other" for row in rows]
        out.embedding = {"places": places, "classes": classes, "energies": energies}
    pairs = _pairs(codes.rows, energies, seed)
    if len(pairs):
        out.interpolations = interpolations(models, pairs, STEPS)


def _in_a_plane(codes: np.ndarray) -> np.ndarray:
    """Places (n, 2) of codes (n, latent) by t-SNE, near ones near each other."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes) - 1) / 3)
    return np.asarray(TSNE(2, perplexity=perplexity, init="random", random_state=0).fit_transform(codes))


def _encoded(models: MapModels, rows: np.ndarray, progress: Progress) -> Latent:
    parts = []
    with progress("encode", len(rows)) as advance:
        for first in range(0, len(rows), BLOCK):
            parts.append(encode_block(models, rows[first : first + BLOCK]))
            advance(len(parts[-1].rows), "")
    return Latent(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "mean", "scale")))


def _pairs(rows: np.ndarray, energies: np.ndarray, seed: int) -> np.ndarray:
    """Two structures of each decile of the formation energy, lowest first, at random: (pairs, 2) of ``rows`` (n,)."""
    known = np.flatnonzero(np.isfinite(energies))
    order = known[np.argsort(energies[known], kind="stable")]
    rng = np.random.default_rng(seed)
    groups = [group for group in np.array_split(order, min(INTERPOLATED, len(order) // 2) or 1) if len(group) > 1]
    return np.array([rows[rng.choice(group, 2, replace=False)] for group in groups], dtype=np.int64).reshape(-1, 2)


def judge_properties(out: Evaluation, run: Run, paths: RoundPaths, names: list[str], progress: Progress) -> None:
    """Errors of the CGCNNs of a round on held-out structures and some of the training ones."""
    structures = StructureSet.read(paths.structures)
    every = np.arange(len(structures))
    chosen = {name: every[in_split(structures, every, name)] for name in (HELDOUT, TRAIN)}
    chosen[TRAIN] = _spaced(chosen[TRAIN], 4 * MOST_TRAINING)
    device = Arithmetic.of(run.config.train).device
    networks = load_property_networks(paths, names, device)
    out.figures["properties"] = {name: {"log10": networks[name].log10} for name in names}
    with progress("predict properties", len(names) * len(chosen)) as advance:
        for split, rows in chosen.items():
            asked = structures.subset(rows)
            for name in names:  # one by one: no index of refraction is left out for a band gap of zero
                targets = asked.properties.get(name, np.full(len(asked), np.nan))
                predicted = predict_properties(asked, {name: networks[name]}, device)[name]
                out.figures["properties"][name][split] = property_figures(targets, predicted, networks[name].log10)
                out.parity.setdefault(name, []).extend(_parity(split, targets, predicted, networks[name].log10))
                advance(1, name)


def _parity(split: str, targets: np.ndarray, predicted: np.ndarray, log10: bool) -> list[Row]:
    known = np.isfinite(targets) & ((targets > 0) if log10 else True)
    pairs = zip(targets[known].tolist(), predicted[known].tolist(), strict=True)
    return [{"split": split, "target": target, "predicted": value} for target, value in pairs]


def _judge_attempts(out: Evaluation, paths: RoundPaths) -> None:
    attempts, known = StructureSet.read(paths.candidates), StructureSet.read(paths.structures)
    out.attempts = attempt_rows(attempts, PREDICTED)
    out.figures["attempts"] = attempt_figures(out.attempts, attempts, known)
    out.energies_by_type = energies_by_type(out.attempts)


def _spaced(rows: np.ndarray, most: int) -> np.ndarray:
    """``rows``, or ``most`` of them at even distances."""
    if len(rows) <= most:
        return rows
    return rows[np.arange(most) * len(rows) // most]
