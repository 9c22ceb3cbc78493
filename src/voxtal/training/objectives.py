"""The properties that a round predicts and steers by: their constraints, and a score of predictions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from voxtal.config import GeneratorConfig, ObjectiveConfig
from voxtal.errors import UserError
from voxtal.models.build import restore
from voxtal.models.constraint import Constraint
from voxtal.runs import RoundPaths
from voxtal.structures.structure_set import FORMATION_ENERGY, StructureSet
from voxtal.training.checkpoint import load
from voxtal.training.losses import objective_term
from voxtal.training.trainer import is_whole

_CONSTRAINT = "constraint"
PROPERTY_NETWORK = "cgcnn"


def properties_of(config: GeneratorConfig) -> tuple[str, ...]:
    """Properties that are predicted: the formation energy, which screening and reports need, and every objective's."""
    return tuple(dict.fromkeys((FORMATION_ENERGY, *(objective.property for objective in config.objectives))))


def constraint_of(property_: str) -> str:
    """Name of a property's constraint among the models: ``constraint`` for the formation energy, as published."""
    return _predictor_of(property_, _CONSTRAINT)


def cgcnn_of(property_: str) -> str:
    """Name of a property's CGCNN among the models: ``cgcnn`` for the formation energy, which the others start from."""
    return _predictor_of(property_, PROPERTY_NETWORK)


def _predictor_of(property_: str, kind: str) -> str:
    return kind if property_ == FORMATION_ENERGY else f"{kind}-{property_}"


def property_of(model: str, kind: str = _CONSTRAINT) -> str | None:
    """The property that a model of this name predicts; None where it is no constraint, or none of another ``kind``."""
    if model == kind:
        return FORMATION_ENERGY
    prefix, _, property_ = model.partition("-")
    return property_ if prefix == kind and property_ else None


def labels(structures: StructureSet, property_: str, where: object) -> np.ndarray:
    """The values (n,) of a property, NaN where unknown.

    Raises
    ------
    UserError
        ``where``, the file of the structures, has no such column, or no value in it.
    """
    column = structures.properties.get(property_)
    if column is not None and has_labels(structures, property_):
        return column
    if property_ == FORMATION_ENERGY:
        raise UserError(f"{where} has no formation energies to train on; label it with `voxtal relax`.")
    if column is not None:
        raise UserError(f"{where} has no finite value of {property_} to train on.")
    known = sorted(structures.properties)
    near = difflib.get_close_matches(property_, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UserError(
        f"{where} has no numeric column {property_!r}.{hint} Its numeric columns: {', '.join(known) or 'none'}."
    )


def has_labels(structures: StructureSet, property_: str) -> bool:
    """Whether a structure has a finite value of the property."""
    return property_ in structures.properties and bool(np.isfinite(structures.properties[property_]).any())


def load_constraints(paths: RoundPaths, properties: Iterable[str]) -> dict[str, Constraint]:
    """The trained constraint of each property.

    Raises
    ------
    UserError
        One has not been trained, or its file is damaged.
    """
    return {
        name: restore(load(paths.train(constraint_of(name)) / "best.pt", training_command(name)))  # type: ignore[misc]
        for name in properties
    }


def training_command(property_: str, kind: str = _CONSTRAINT) -> str:
    """What trains a property's constraint, or its CGCNN."""
    option = "" if property_ == FORMATION_ENERGY else f" --property {property_}"
    return f"voxtal train {kind}{option}"


def untrained(paths: RoundPaths, properties: Iterable[str]) -> list[str]:
    """Those of ``properties`` whose constraint has not been trained, or not to its end."""
    return [name for name in properties if not is_whole(paths.train(constraint_of(name)))]


def scores(objectives: Iterable[ObjectiveConfig], predicted: Mapping[str, np.ndarray]) -> np.ndarray:
    """How far candidates (n,) are from what is asked, by the sum of eq. 2's terms: lower is better.

    Objectives that all have weight 0 count alike: what the generator is not pushed to can still be chosen.
    """
    asked = list(objectives)
    equal = not any(objective.weight for objective in asked)
    terms = [
        (1.0 if equal else objective.weight)
        * objective_term(objective, torch.from_numpy(np.asarray(predicted[objective.property], dtype=np.float64)))
        for objective in asked
    ]
    return torch.stack(terms).sum(0).numpy()
