"""ICSG3D's generator: latent codes and conditions to crystals by the VAE, or by VAE and UNet, to properties by
CGCNNs (doi:10.1021/acs.jcim.0c00464)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols

from voxtal import __version__
from voxtal.config import ICSG3D, DensityConfig
from voxtal.errors import UserError
from voxtal.generation.bases import Base, find_bases, placed
from voxtal.generation.blocks import Maker, Rows, condition_column, predicted_column, rows_of, seed_of
from voxtal.generation.decode import Decoded
from voxtal.generation.icsg3d_conditions import (
    Vectors,
    asked_vector,
    check_condition,
    on_line,
    vector_of,
    vectors_of,
)
from voxtal.generation.icsg3d_request import MapsRequest
from voxtal.generation.map_decoding import MapDecoder
from voxtal.generation.properties import (
    PropertyNetwork,
    load_property_networks,
    predict_properties,
    trained_properties,
)
from voxtal.generation.sampling import noise_of
from voxtal.generation.vae_codes import decode_codes, encode_crystals
from voxtal.models.build import restore
from voxtal.models.code_density import CodeDensity
from voxtal.models.ions_vae import IonsVAE
from voxtal.models.vae import VAE
from voxtal.parallel.data_parallel import launch_of
from voxtal.representations.density import Crystal, DensityGrid
from voxtal.runs import RoundPaths, Run, sha256_of
from voxtal.structures.conditions import Condition
from voxtal.structures.phases import system_name
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.device import Arithmetic
from voxtal.training.objectives import cgcnn_of, properties_of
from voxtal.training.vae_task import load_unet

GROUP = 16
"""Attempts that the networks see at once, always the same ones: what comes of one may depend, in the last bit, on its
company."""


@dataclass(frozen=True)
class MapsModels:
    """A round's VAE, and the UNet if crystals are made of its maps, on this rank's device.

    Attributes
    ----------
    decoder
        Of maps; None where the VAE draws ions.
    grid
        Of the maps that the VAE was trained on.
    condition
        Of which the VAE was told in training.
    known
        (m, properties) conditions of its training structures, as :meth:`Condition.numbers`, sorted by the first.
    codes
        Where the codes of each condition lie; None: all are N(0, 1), as published.
    """

    vae: VAE
    decoder: MapDecoder | None
    grid: DensityGrid
    condition: Condition
    known: np.ndarray
    codes: CodeDensity | None
    device: torch.device

    def encode(self, crystals: Sequence[Crystal], conditions: np.ndarray) -> np.ndarray:
        """Means (n, latent) float32 of the codes of crystals, told condition vectors (n, width)."""
        return encode_crystals(self.vae, crystals, self._tensor(conditions), self.grid)[0].cpu().numpy()

    def decode(self, codes: np.ndarray, conditions: np.ndarray, max_atoms: int | None = None) -> list[Decoded]:
        """Crystals of codes (n, latent) under condition vectors (n, width)."""
        return decode_codes(self.vae, self.decoder, self._tensor(codes), self._tensor(conditions), max_atoms)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(self.device)


def open_maps_models(run: Run, paths: RoundPaths) -> MapsModels:
    """The round's VAE, with the UNet that it needs.

    Raises
    ------
    UserError
        One of them is not trained, or they were trained on maps of different settings.
    """
    arithmetic = _arithmetic(run)
    saved = _load_vae(paths)
    density = DensityConfig.model_validate(saved["facts"]["density"])
    vae, grid, decoder = restore(saved), DensityGrid.of(density), None
    if not isinstance(vae, IonsVAE):
        unet: Any = arithmetic.place(load_unet(paths.train("unet") / "best.pt", density))
        decoder = MapDecoder(unet, grid, published=True, drawn=True)
    condition, known, codes = _condition_of(saved)
    return MapsModels(arithmetic.place(vae), decoder, grid, condition, known, codes, arithmetic.device)  # type: ignore[arg-type]


def maps_maker(run: Run, paths: RoundPaths, request: MapsRequest) -> Maker:
    """What makes the attempts of a request with the round's VAE, UNet and CGCNNs."""

    def open_() -> Rows:
        return open_maps_generator(run, paths, request).rows

    return Maker(request.asked, lambda: _made_by(run, paths, request), open_)


def _made_by(run: Run, paths: RoundPaths, request: MapsRequest) -> dict[str, Any]:
    """What attempts depend on besides their number and what is asked for."""
    # what is missing or cannot be is told before any work is done
    models = open_maps_generator(run, paths, request).models
    facts: dict[str, Any] = {
        "voxtal": __version__,
        "seed": seed_of(run, paths),
        "models": {name: sha256_of(paths.train(name) / "best.pt") for name in _networks(models, paths)},
    }
    if request.bases:
        facts["bases"] = [base.fingerprint for base in find_bases(run, paths, request.bases)]
    return facts


def networks_of(run: Run, paths: RoundPaths) -> list[str]:
    """Folders of the networks that attempts are made with.

    Raises
    ------
    UserError
        One of them is not trained.
    """
    models = open_maps_models(run, paths)
    open_property_networks(run, paths, models.device)
    return _networks(models, paths)


def _networks(models: MapsModels, paths: RoundPaths) -> list[str]:
    makers = ["vae"] if models.decoder is None else ["vae", "unet"]
    return [*makers, *map(cgcnn_of, trained_properties(paths))]


@dataclass(frozen=True)
class MapsGenerator:
    """Numbered attempts in, rows of candidates out.

    Attributes
    ----------
    index
        Of the round.
    networks
        Property -> what predicts it from crystals.
    anchors
        (0, 1 or 2, latent) codes of the compounds that the request names.
    vectors
        Condition vectors of attempts.
    """

    index: int
    models: MapsModels
    networks: Mapping[str, PropertyNetwork]
    request: MapsRequest
    seed: int
    anchors: np.ndarray
    vectors: Vectors

    def rows(self, attempts: np.ndarray) -> StructureSet:
        """Attempts (n,) that follow each other."""
        groups = range(attempts[0] // GROUP, attempts[-1] // GROUP + 1)
        made = StructureSet.concatenate([self._group(np.arange(g * GROUP, (g + 1) * GROUP)) for g in groups])
        return made.subset(attempts - groups.start * GROUP)

    def codes(self, attempts: np.ndarray) -> np.ndarray:
        """Latent codes (n, latent) of numbered attempts (n,)."""
        if self.request.between:
            return on_line(self.anchors, self.request.steps, attempts)
        noise = noise_of(self.seed, attempts, self.models.vae.latent)
        if self.request.around is not None:
            return self.anchors[0] + np.sqrt(self.request.variance) * noise
        return _random_codes(noise, self.models.condition, self.models.codes, self.vectors(attempts))

    def _group(self, attempts: np.ndarray) -> StructureSet:
        conditions = self.vectors(attempts)
        decoded = self.models.decode(self.codes(attempts), conditions, self.request.max_atoms)
        asked = self.models.condition.told(conditions)
        columns = {condition_column(name): values for name, values in asked.items()}
        drawn = np.asarray(
            [system_name({chemical_symbols[z] for z in each.numbers.tolist()}) for each in decoded], dtype=np.str_
        )
        rows = rows_of(self.index, attempts, ICSG3D, decoded, drawn, columns)
        return rows.with_columns(self._predicted(rows, np.array([not each.reason for each in decoded])))

    def _predicted(self, rows: StructureSet, valid: np.ndarray) -> dict[str, np.ndarray]:
        """Predictions (n,) of each property, NaN where there is no valid crystal."""
        predicted = predict_properties(rows.subset(np.flatnonzero(valid)), self.networks, self.models.device)
        out = {predicted_column(name): np.full(len(rows), np.nan) for name in predicted}
        for name, values in predicted.items():
            out[predicted_column(name)][valid] = values
        return out


def open_maps_generator(run: Run, paths: RoundPaths, request: MapsRequest) -> MapsGenerator:
    """What makes the attempts of a request, on this rank's device.

    Raises
    ------
    UserError
        A network is not trained, a compound is not there, or the condition cannot be asked for.
    """
    models = open_maps_models(run, paths)
    check_condition(models.condition, request)
    networks = open_property_networks(run, paths, models.device)
    bases = find_bases(run, paths, request.bases)
    asked = asked_vector(models.condition, request)
    values = np.array([[base.value(name) for name in models.condition.properties] for base in bases])
    if asked is None:
        values = np.array([_filled(b, v, models, networks) for b, v in zip(bases, values, strict=True)])
    seed = seed_of(run, paths)
    return MapsGenerator(
        paths.index,
        models,
        networks,
        request,
        seed,
        _anchors(models, bases, values, asked),
        vectors_of(models.condition, request, seed, models.known, values),
    )


def open_property_networks(run: Run, paths: RoundPaths, device: torch.device) -> dict[str, PropertyNetwork]:
    """All trained CGCNNs of a round; UserError where one is missing that the generator's objectives need."""
    names = dict.fromkeys([*trained_properties(paths), *properties_of(run.config.generator)])
    return load_property_networks(paths, names, device)


def with_energy(run: Run, paths: RoundPaths, base: Base) -> StructureSet:
    """A compound's row with its formation energy, predicted where it is not known."""
    if np.isfinite(base.value(FORMATION_ENERGY)):
        return base.row
    networks = load_property_networks(paths, [FORMATION_ENERGY], "cpu")
    return base.row.with_columns(predict_properties(base.row, networks, "cpu"))


def latent_codes(run: Run, paths: RoundPaths, attempts: np.ndarray) -> np.ndarray:
    """Codes (n, latent) of numbered attempts (n,) of the round itself, of which nothing was asked."""
    saved, seed = _load_vae(paths), seed_of(run, paths)
    condition, known, codes = _condition_of(saved)
    vectors = vectors_of(condition, MapsRequest(), seed, known, known[:0])(attempts)
    return _random_codes(noise_of(seed, attempts, saved["sizes"]["latent"]), condition, codes, vectors)


def _random_codes(
    noise: np.ndarray, condition: Condition, codes: CodeDensity | None, vectors: np.ndarray
) -> np.ndarray:
    """Codes (n, latent) of normal ``noise`` (n, latent) under condition ``vectors`` (n, width)."""
    return noise if codes is None else codes.draw(noise, condition.numbers(vectors))


def _condition_of(saved: Mapping[str, Any]) -> tuple[Condition, np.ndarray, CodeDensity | None]:
    """``condition``, ``known`` and ``codes`` of :class:`MapsModels`."""
    facts = saved["facts"]
    if "known" not in facts:
        raise UserError(
            "The VAE is of an earlier voxtal. Delete its folder train/vae, and run `voxtal train vae` again."
        )
    codes = CodeDensity.from_facts(facts["codes"]) if "codes" in facts else None
    return Condition.from_facts(facts["condition"]), facts["known"].numpy().astype(np.float64), codes


def _anchors(models: MapsModels, bases: Sequence[Base], values: np.ndarray, asked: np.ndarray | None) -> np.ndarray:
    """Each compound's code (k, latent), under its own condition; where that is not known, under what is ``asked``."""
    codes = []
    for base, known in zip(bases, values, strict=True):
        condition = asked if asked is not None and not np.isfinite(known).all() else vector_of(models.condition, known)
        most_atoms = models.vae.ions if isinstance(models.vae, IonsVAE) else None
        codes.append(models.encode([placed(base, most_atoms, models.grid)], condition[None])[0])
    return np.array(codes, dtype=np.float32).reshape(-1, models.vae.latent)


def _filled(base: Base, known: np.ndarray, models: MapsModels, networks: Mapping[str, PropertyNetwork]) -> np.ndarray:
    """The condition's properties (k,) of a compound, predicted where they are not ``known`` (k,).

    Raises
    ------
    UserError
        One is neither known nor can be predicted.
    """
    names = models.condition.properties
    unknown = [name for name, value in zip(names, known, strict=True) if not np.isfinite(value)]
    predicted = predict_properties(base.row, {n: networks[n] for n in unknown if n in networks}, models.device)
    missing = [name for name in unknown if not np.isfinite(predicted.get(name, np.array([np.nan]))[0])]
    if missing:
        raise UserError(
            f"Nothing is known of the {missing[0]} of {base.name}, which the VAE has to be told. Give "
            f"--condition {missing[0]}=..., or train what predicts it: `voxtal train cgcnn --property {missing[0]}`."
        )
    return np.array([predicted[name][0] if name in predicted else v for name, v in zip(names, known, strict=True)])


def _load_vae(paths: RoundPaths) -> dict[str, Any]:
    return load(paths.train("vae") / "best.pt", "voxtal train vae")


def _arithmetic(run: Run) -> Arithmetic:
    return Arithmetic.of(run.config.train, launch_of(os.environ).local_rank)
