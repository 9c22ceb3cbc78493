"""CIF text to arrays by gemmi: symmetry expanded, sites in the order of the file, pymatgen's axes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gemmi
import numpy as np

from voxtal.structures.filters import Arrays
from voxtal.structures.rows import BadRowError

_FULL_OCCUPANCY = 0.999
_SAME_SITE = 1e-3
"""Images of a site closer than this in every fractional coordinate are one atom on a special position."""
_ROUNDED_THIRDS = 1e-4
"""Coordinates this near to 1/3 or 2/3 (relative) were rounded for printing; pymatgen's tolerance."""


def parse_cif(text: str) -> Arrays:
    """Numbers, fractional coordinates and cell of the first data block with atoms in ``text``.

    Raises
    ------
    BadRowError
        The text is not CIF, or holds no ordered crystal of known elements.
    """
    return _crystal(_first_block_with_atoms(_read(text)))


def block_texts(text: str) -> list[tuple[str, str]]:
    """Name and text of every data block that lists atoms; a single unnamed one where there is none."""
    blocks = [block for block in _read(text) if _lists_atoms(block)]
    if len(blocks) < 2:
        return [("", text)]
    return [(block.name, block.as_string()) for block in blocks]


def _read(text: str) -> Any:
    try:
        return gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        raise BadRowError("CIF does not parse", error) from None


def _lists_atoms(block: Any) -> bool:
    return bool(block.find_loop("_atom_site_fract_x")) or block.find_value("_atom_site_fract_x") is not None


def _first_block_with_atoms(document: Iterable[Any]) -> Any:
    for block in document:
        if _lists_atoms(block):
            return block
    raise BadRowError("no atoms", "no _atom_site_fract_x in the CIF")


def _crystal(block: Any) -> Arrays:
    cell = _cell(block)
    try:
        small = gemmi.make_small_structure_from_block(block)
    except (ValueError, RuntimeError) as error:
        raise BadRowError("CIF does not parse", error) from None
    numbers, frac_coords = [], []
    for site in small.sites:
        if site.occ < _FULL_OCCUPANCY:
            raise BadRowError("partial occupancy", f"{site.label} has occupancy {site.occ:g}")
        if site.element.atomic_number == 0 or site.element.name == "D":
            raise BadRowError("unknown element", site.type_symbol or site.label)
        numbers.append(site.element.atomic_number)
        frac_coords.append((site.fract.x, site.fract.y, site.fract.z))
    if not numbers:
        raise BadRowError("no atoms")
    frac = _unround(np.array(frac_coords))
    operations = _operations(small)
    if len(operations) > 1 and np.isfinite(frac).all():
        return *_expand(np.array(numbers), frac, operations), cell
    return np.array(numbers), frac, cell


def _cell(block: Any) -> np.ndarray:
    """The cell as it is written: gemmi's own takes an angle of zero for a missing one."""
    lengths = [block.find_value(f"_cell_length_{edge}") for edge in "abc"]
    angles = [block.find_value(f"_cell_angle_{angle}") or "90" for angle in ("alpha", "beta", "gamma")]
    if None in lengths:
        raise BadRowError("no cell", "the CIF lacks a _cell_length")
    return cell_matrix(gemmi.cif.as_number(value) for value in (*lengths, *angles))


def cell_matrix(parameters: Iterable[float]) -> np.ndarray:
    """Lattice vectors as rows from a, b, c (angstrom) and alpha, beta, gamma (degrees): c along z, a in the
    xz plane, which is pymatgen's choice."""
    a, b, c, *angles = parameters
    alpha, beta, gamma = np.radians(angles)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (np.cos(alpha) * np.cos(beta) - np.cos(gamma)) / (np.sin(alpha) * np.sin(beta))
        gamma_star = np.arccos(np.clip(cosine, -1, 1))
    return np.array(
        [
            [a * np.sin(beta), 0.0, a * np.cos(beta)],
            [
                -b * np.sin(alpha) * np.cos(gamma_star),
                b * np.sin(alpha) * np.sin(gamma_star),
                b * np.cos(alpha),
            ],
            [0.0, 0.0, c],
        ]
    )


def _unround(frac: np.ndarray) -> np.ndarray:
    for exact in (1 / 3, 2 / 3):
        frac = np.where(np.abs(frac - exact) < _ROUNDED_THIRDS * exact, exact, frac)
    return frac


def _operations(small: Any) -> list[Any]:
    """The symmetry operations that the file lists, else those of the space group that it names."""
    try:
        if small.symops:
            return [gemmi.Op(text) for text in small.symops]
    except (ValueError, RuntimeError) as error:
        raise BadRowError("symmetry does not parse", error) from None
    small.determine_and_set_spacegroup("n2")
    if small.spacegroup is None:
        if small.spacegroup_hm or small.spacegroup_number:
            raise BadRowError("symmetry does not parse", small.spacegroup_hm or small.spacegroup_number)
        return []
    return list(small.spacegroup.operations())


def _expand(numbers: np.ndarray, frac: np.ndarray, operations: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    rotations = np.array([op.rot for op in operations]) / gemmi.Op.DEN
    translations = np.array([op.tran for op in operations]) / gemmi.Op.DEN
    all_numbers: list[int] = []
    all_sites: list[np.ndarray] = []
    for number, site in zip(numbers, frac, strict=True):
        sites = _distinct(rotations @ site + translations)
        all_sites.extend(sites)
        all_numbers.extend([number] * len(sites))
    return np.array(all_numbers), np.array(all_sites)


def _distinct(images: np.ndarray) -> np.ndarray:
    """Images wrapped into the cell, each position once, in the order of the operations."""
    images = images - np.floor(images)
    offsets = images[:, None] - images[None]
    same = (np.abs(offsets - np.round(offsets)) < _SAME_SITE).all(axis=-1)
    return images[np.argmax(same, axis=1) == np.arange(len(images))]
