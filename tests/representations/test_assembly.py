"""Decoded atoms and cells put together."""

from __future__ import annotations

import numpy as np

from voxtal.representations.assembly import assemble


def test_atoms_come_by_element_inside_the_cell():
    """Fractional coordinates outside [0, 1), or atoms with another element's number, would leave here."""
    cell = np.array([[4.0, 0, 0], [1, 5, 0], [0, 1, 6]])
    frac = np.array([[0.25, 0.5, 0.75], [1.25, -0.5, 2.0], [-1e-18, 0, 1]])
    numbers, found, same = assemble(cell, {72: frac[1:] @ cell, 27: frac[:1] @ cell})
    assert numbers.tolist() == [27, 72, 72]
    assert ((found >= 0) & (found < 1)).all()
    assert np.allclose((found - frac + 0.5) % 1, 0.5)
    assert same is cell


def test_no_atoms_make_an_empty_structure():
    """A candidate without atoms is for validity to drop; assembling it must not fail."""
    numbers, frac_coords, _ = assemble(np.eye(3), {27: np.empty((0, 3))})
    assert len(numbers) == len(frac_coords) == 0
    assert len(assemble(np.eye(3), {})[0]) == 0
