"""The 24 rotations of a cube on maps: index permutations and flips, so that no rotated copy needs to be stored.

ICSG3D augments each structure with ten products of three random 90-degree turns about random axes
(doi:10.1021/acs.jcim.0c00464, section Data Preparation). All maps are turned as images: the values of M, S and
S_B move with the crystal, and the three channels of the coordinate grid C move too but keep their values, which are
not turned. C of a rotated map therefore holds, along each axis of the map, the (negated) lattice vector that lies
there, in the frame before the rotation: :func:`~voxtal.representations.density.cell_from_coordinates` reads the cell
that belongs to the rotated map, and decoding gives the same crystal.

The maps of a rotated crystal, encoded anew, are the rotated maps if no axis is flipped or the sites reach equally far
from both faces of the box; otherwise the two differ by the shift that puts the smallest coordinate at 0.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rotation:
    """A turn of the last three axes of an array: ``np.flip(np.transpose(array, axes), flips)``.

    Attributes
    ----------
    axes
        Axis of the array that becomes axis 0, 1 and 2 of the result.
    flips
        Axes of the result that are reversed. In torch: ``tensor.permute(*lead, *axes).flip(flips)``, with
        ``axes`` and ``flips`` counted from the first of the three.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, ...]

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The last three axes of ``array`` (..., N, N, N) turned: a view, nothing is copied."""
        lead = array.ndim - 3
        turned = np.transpose(array, (*range(lead), *(lead + axis for axis in self.axes)))
        return np.flip(turned, tuple(lead + axis for axis in self.flips))

    def then(self, other: Rotation) -> Rotation:
        """This turn and then ``other`` as one."""
        axes = tuple(self.axes[axis] for axis in other.axes)
        flipped = {i for i, axis in enumerate(other.axes) if axis in self.flips}
        return Rotation(axes, tuple(sorted(flipped ^ set(other.flips))))  # type: ignore[arg-type]

    @property
    def inverse(self) -> Rotation:
        """The turn that undoes this one."""
        axes = tuple(int(i) for i in np.argsort(self.axes))
        return Rotation(axes, tuple(sorted(self.axes[i] for i in self.flips)))  # type: ignore[arg-type]

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) int, determinant 1: turns a step (3,) between voxels of the array into that of the result."""
        matrix = np.zeros((3, 3), dtype=int)
        for i, axis in enumerate(self.axes):
            matrix[i, axis] = -1 if i in self.flips else 1
        return matrix


def quarter_turn(plane: tuple[int, int], turns: int = 1) -> Rotation:
    """``np.rot90`` (k = ``turns``) in the ``plane`` of two of the axes 0, 1, 2."""
    first, second = plane
    axes = [0, 1, 2]
    axes[first], axes[second] = second, first
    one = Rotation((axes[0], axes[1], axes[2]), (first,))
    product = IDENTITY
    for _ in range(turns % 4):
        product = product.then(one)
    return product


IDENTITY = Rotation((0, 1, 2), ())

PLANES = (0, 1), (0, 2), (1, 2)
"""The planes of 90-degree turns about z, y and x."""


ROTATIONS: tuple[Rotation, ...] = tuple(
    rotation
    for axes in itertools.permutations((0, 1, 2))
    for n in range(4)
    for flips in itertools.combinations((0, 1, 2), n)
    if round(float(np.linalg.det((rotation := Rotation(axes, flips)).matrix))) == 1  # type: ignore[arg-type]
)
"""The 24 turns that map a cube onto itself; none mirrors it."""


def random_rotations(seed: int, structure: int, n: int = 10) -> list[Rotation]:
    """``n`` random rotations of structure number ``structure``: each three random quarter turns about random axes.

    They depend on ``seed`` and ``structure`` alone. A quarter turn is an odd permutation of a cube's four diagonals and
    so is a product of three: 12 of the 24 rotations are reached, and the identity never. It is how it was published.
    """
    random = np.random.default_rng([seed, structure])
    rotations = []
    for planes in random.integers(0, len(PLANES), (n, 3)).tolist():
        product = IDENTITY
        for plane in planes:
            product = product.then(quarter_turn(PLANES[plane]))
        rotations.append(product)
    return rotations
