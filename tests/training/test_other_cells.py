"""Another cell of the same crystal, in training."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxtal.parallel.data_parallel import Share
from voxtal.training.other_cells import BASES, atoms_in_other_cells, other_cells

ROWS = 32
ALL = Share(0, ROWS, ROWS, 1.0)


def crystals(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, counts and cells in the standard orientation."""
    draw = torch.Generator().manual_seed(seed)
    edges = 4 * torch.eye(3) + torch.rand(ROWS, 3, 3, generator=draw).tril()
    counts = torch.randint(1, 6, (ROWS,), generator=draw)
    return torch.rand(ROWS, 5, 3, generator=draw) @ edges, counts, edges


def test_bases_are_bases_of_the_same_lattice() -> None:
    """The autoencoder would learn crystals that there are not."""
    assert len({tuple(base.flatten().tolist()) for base in BASES}) == 13
    torch.testing.assert_close(torch.linalg.det(BASES), torch.ones(13))


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_atoms_are_the_same_but_for_lattice_vectors_and_a_shift(seed: int) -> None:
    """Atoms would be moved against each other."""
    positions, counts, cells = crystals(seed)
    torch.manual_seed(seed)
    found = atoms_in_other_cells(positions, counts, cells, 1.0, ALL)
    assert (found != positions).any((1, 2)).float().mean() > 0.9
    for before, after, n, cell in zip(positions, found, counts.tolist(), cells, strict=True):
        torch.testing.assert_close(after[:n].mean(0), before[:n].mean(0), atol=1e-4, rtol=0)
        moved = ((after - before)[:n] - (after - before)[0]) @ torch.linalg.inv(cell)
        torch.testing.assert_close(moved, moved.round(), atol=1e-4, rtol=0)


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_cells_keep_volume_and_orientation(seed: int) -> None:
    """A cell that is turned would not fit the atoms that are decoded with it."""
    cells = crystals(seed)[2]
    torch.manual_seed(seed)
    found = other_cells(cells, 1.0, ALL)
    torch.testing.assert_close(torch.linalg.det(found), torch.linalg.det(cells))
    assert not found.triu(1).any()
    assert (found != cells).any((1, 2)).float().mean() > 0.5


def test_as_often_as_is_wanted_and_the_same_on_any_number_of_ranks() -> None:
    """Two ranks would train on other images than one."""
    positions, counts, cells = crystals(3)
    torch.manual_seed(5)
    whole = atoms_in_other_cells(positions, counts, cells, 0.3, ALL)
    changed = (whole != positions).any((1, 2)).float().mean()
    assert 0.1 < changed < 0.6
    parts = []
    for first in (0, 16):
        torch.manual_seed(5)
        rows = slice(first, first + 16)
        share = Share(first, first + 16, ROWS, 1.0)
        parts.append(atoms_in_other_cells(positions[rows], counts[rows], cells[rows], 0.3, share))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
