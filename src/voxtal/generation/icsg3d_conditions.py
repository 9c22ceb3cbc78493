"""Which condition each attempt of ICSG3D's generator has: asked for, that of known compounds, or each in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from voxtal.errors import UserError
from voxtal.generation.icsg3d_request import MapsRequest
from voxtal.structures.conditions import DECILES, Condition

_GOLDEN_RATIO = (5**0.5 - 1) / 2

Vectors = Callable[[np.ndarray], np.ndarray]
"""From numbers of attempts (n,) to their condition vectors (n, width)."""


def check_condition(condition: Condition, request: MapsRequest) -> None:
    """Refuse what the VAE was not told of in training.

    Raises
    ------
    UserError
        A decile of a condition that has none or several, or values of other properties than its own.
    """
    names = ", ".join(condition.properties)
    if request.decile is not None and (condition.edges is None or len(condition.properties) > 1):
        kind = "values" if condition.edges is None else "deciles"
        raise UserError(
            f"--decile {request.decile}: the VAE was trained with {kind} of {names}; ask for values with "
            + " ".join(f"--condition {name}=..." for name in condition.properties)
            + "."
        )
    asked = [name for name, _ in request.condition]
    unknown = [name for name in asked if name not in condition.properties]
    missing = [name for name in condition.properties if name not in asked]
    if unknown:
        raise UserError(f"--condition {unknown[0]}: the VAE's condition is {names} (train.vae.condition).")
    if asked and missing:
        raise UserError(f"--condition: give {', '.join(missing)}, too; the VAE's condition is {names}.")


def vectors_of(condition: Condition, request: MapsRequest, seed: int, known: np.ndarray, bases: np.ndarray) -> Vectors:
    """What gives each attempt its condition vector.

    Random attempts take turns over the ten deciles, as published a tenth of them in each. With values, or with several
    properties, they take turns over the training structures, which have plausible combinations, as evenly as multiples
    of the golden ratio fill [0, 1).

    Parameters
    ----------
    known
        (m, properties) conditions of the training structures, as :meth:`Condition.numbers`, sorted by the first.
    bases
        (k, properties) values of the compounds that the request names, used where it says nothing of the condition; on
        a line between two they change as evenly as the code does.
    """
    asked = asked_vector(condition, request)
    if asked is not None:
        return lambda attempts: np.repeat(asked[None], len(attempts), axis=0)
    if request.bases:
        return lambda attempts: _encoded(condition, on_line(bases, request.steps, attempts))
    if condition.edges is not None and len(condition.properties) == 1:
        return lambda attempts: condition.vectors(attempts[:, None] % DECILES)
    first = np.random.default_rng([seed, 7]).random()

    def in_turn(attempts: np.ndarray) -> np.ndarray:
        return condition.vectors(known[((first + attempts * _GOLDEN_RATIO) % 1 * len(known)).astype(np.int64)])

    return in_turn


def asked_vector(condition: Condition, request: MapsRequest) -> np.ndarray | None:
    """The condition vector (width,) that is asked for, None where none is."""
    if request.decile is not None:
        return condition.vectors(np.array([[request.decile]]))[0]
    return condition.encode({name: [value] for name, value in request.condition})[0] if request.condition else None


def on_line(ends: np.ndarray, steps: int, attempts: np.ndarray) -> np.ndarray:
    """Points (n, d) of numbered attempts (n,) in ``steps`` equal ones from the first of ``ends`` (1 or 2, d) to the
    last."""
    place = attempts[:, None] / max(1, steps - 1)
    return ends[0] + place * (ends[-1] - ends[0])


def _encoded(condition: Condition, values: np.ndarray) -> np.ndarray:
    return condition.encode(dict(zip(condition.properties, values.T, strict=True)))


def vector_of(condition: Condition, values: Sequence[float]) -> np.ndarray:
    """The condition vector (width,) of one structure's values."""
    return _encoded(condition, np.asarray(values, dtype=np.float64)[None])[0]
