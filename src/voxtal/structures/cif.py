"""CIF text to arrays by gemmi: the crystal, axes and order of sites of pymatgen's parser.

``CifParser(...).parse_structures(primitive=False)`` of pymatgen is the reference: symmetry expanded, coordinates
unrounded, sites sorted by electronegativity. Its structures are reached in pure Python, because NumPy calls on
arrays this small cost more than the arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import gemmi
import numpy as np

from voxtal.structures.filters import Arrays
from voxtal.structures.rows import BadRowError
from voxtal.structures.site_order import SYMBOLS, site_order

_OCCUPANCY_TOLERANCE = 1e-3
_SAME_SITE = 1e-3
"""Images of a site closer than this in every fractional coordinate are one atom on a special position. pymatgen takes
1e-4, with which positions printed to four decimals become two atoms a thousandth of the cell apart."""
_ROUNDED_THIRDS = 1e-4
"""Coordinates this near to 1/3 or 2/3 (relative) were rounded for printing; pymatgen's tolerance."""

_X, _Y, _Z = (f"_atom_site_fract_{axis}" for axis in "xyz")
_TYPE, _LABEL, _OCCUPANCY = "_atom_site_type_symbol", "_atom_site_label", "_atom_site_occupancy"
_SITE_TAGS = (_X, _Y, _Z, _TYPE, _LABEL, _OCCUPANCY)
_CELL_TAGS = tuple(
    f"_cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")

_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
_MOLECULES = ("Wat", "wat", "OH", "O-H", "NO3")
"""Site types that stand for several atoms, of which the file gives one place."""

Operations = tuple[np.ndarray, np.ndarray]
"""Rotations (m, 3, 3) and translations (m, 3) on fractional coordinates."""


def parse_cif(text: str) -> Arrays:
    """Numbers, fractional coordinates and cell of the first data block with atoms in ``text``.

    Raises
    ------
    BadRowError
        The text is not CIF, or holds no ordered crystal of known elements.
    """
    document = _read(text)
    for i in range(len(document)):  # gemmi's iterators cost more than all the rest of this loop
        if (sites := _atom_sites(document[i])) is not None:
            return _crystal(document[i], sites)
    raise BadRowError("no atoms", "no _atom_site_fract_x in the CIF")


def block_texts(text: str) -> list[tuple[str, str]]:
    """Name and text of every data block that lists atoms; a single unnamed one where there is none."""
    blocks = [block for block in _read(text) if _atom_sites(block) is not None]
    if len(blocks) < 2:
        return [("", text)]
    return [(block.name, block.as_string()) for block in blocks]


def _read(text: str) -> Any:
    try:
        # Without gemmi's own checks, a third of its time; a tag given twice matters where there are two crystals.
        document = gemmi.cif.read_string(text, 0)
        if text.count("_cell_length_a") > 1:
            document.check_for_duplicates()
        return document
    except (ValueError, RuntimeError) as error:
        raise BadRowError("CIF does not parse", error) from None


def _atom_sites(block: Any) -> dict[str, list[str]] | None:
    """Columns of the table of atoms by tag, as written; None where the block has none."""
    if column := block.find_loop(_X):
        loop = column.get_loop()
        values = loop.values
        return {tag: values[rows] for tag, rows in _columns(tuple(loop.tags))}
    single = {tag: block.find_value(tag) for tag in _SITE_TAGS}
    if single[_X] is None:
        return None
    return {tag: [value] for tag, value in single.items() if value is not None}


@lru_cache(maxsize=256)
def _columns(tags: tuple[str, ...]) -> list[tuple[str, slice]]:
    """Tag and place, in the values of a table read row by row, of the columns that are used."""
    lower = [tag.lower() for tag in tags]
    return [(tag, slice(i, None, len(tags))) for i, tag in enumerate(lower) if tag in _SITE_TAGS]


def _crystal(block: Any, sites: dict[str, list[str]]) -> Arrays:
    cell = _cell(block)
    try:
        coordinates = sites[_X] + sites[_Y] + sites[_Z]
        symbols = sites[_TYPE] if _TYPE in sites else sites[_LABEL]
    except KeyError as error:
        raise BadRowError("CIF does not parse", f"no {error.args[0]}") from None
    if _OCCUPANCY in sites and {*sites[_OCCUPANCY]} != {"1"}:
        occupied = _occupied(sites[_OCCUPANCY], sites.get(_LABEL, symbols))
        coordinates = [sites[tag][i] for tag in (_X, _Y, _Z) for i in occupied]
        symbols = [symbols[i] for i in occupied]
    if not symbols:
        raise BadRowError("no atoms")
    names = None
    try:
        numbers = [_NUMBERS[symbol] for symbol in symbols]
    except KeyError:
        numbers = [_number(symbol) for symbol in symbols]
        names = _names(block, symbols, numbers)
    frac_coords = np.array(_coordinates(coordinates)).reshape(3, -1).T
    operations = _operations(block)
    if operations is not None and np.isfinite(frac_coords).all():
        frac_coords, images = _expand(frac_coords, *operations)
        numbers = [numbers[i] for i in images]
        names = names and [names[i] for i in images]
    if (order := site_order(numbers, names)) is None:
        return np.array(numbers), frac_coords.copy(), cell
    return np.array([numbers[i] for i in order]), frac_coords.take(order, axis=0), cell


def _cell(block: Any) -> np.ndarray:
    """The cell as it is written; gemmi's own takes an angle of zero for a missing one."""
    values = list(map(block.find_value, _CELL_TAGS))
    if None in values:
        if None in values[:3]:
            raise BadRowError("no cell", "the CIF lacks a _cell_length")
        values = [value or "90" for value in values]
    return cell_matrix(*_floats(values))


def cell_matrix(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> np.ndarray:
    """Lattice vectors as rows from a, b, c (angstrom) and alpha, beta, gamma (degrees): c along z, a in the
    xz plane, which is pymatgen's choice. NaN throughout where a parameter is not finite."""
    if not math.isfinite(a + b + c + alpha + beta + gamma):
        return np.full((3, 3), np.nan)
    sin_alpha, cos_alpha, sin_beta, cos_beta, sin_gamma_star, cos_gamma_star = _directions(alpha, beta, gamma)
    vector_a = (a * sin_beta, 0.0, a * cos_beta)
    vector_b = (-b * sin_alpha * cos_gamma_star, b * sin_alpha * sin_gamma_star, b * cos_alpha)
    return np.array(vector_a + vector_b + (0.0, 0.0, c)).reshape(3, 3)


@lru_cache(maxsize=1024)
def _directions(alpha: float, beta: float, gamma: float) -> tuple[float, ...]:
    """Sine and cosine of alpha, beta and the reciprocal gamma; most cells have one of a few sets of angles."""
    alpha, beta, gamma = math.radians(alpha), math.radians(beta), math.radians(gamma)
    area = math.sin(alpha) * math.sin(beta)
    cosine = (math.cos(alpha) * math.cos(beta) - math.cos(gamma)) / area if area else 1.0
    gamma_star = float(np.arccos(max(-1.0, min(1.0, cosine))))  # as pymatgen: math.acos may differ in the last bit
    return tuple(turn(angle) for angle in (alpha, beta, gamma_star) for turn in (math.sin, math.cos))


def _floats(texts: Iterable[str]) -> Iterator[float]:
    """Numbers as written, uncertainties in brackets left off; NaN for what is none."""
    return map(gemmi.cif.as_number, texts)


def _coordinates(texts: Iterable[str]) -> list[float]:
    return [x if x < 0.333 or 0.334 < x < 0.666 or x > 0.667 else _unround(x) for x in _floats(texts)]


def _unround(coordinate: float) -> float:
    for exact in (1 / 3, 2 / 3):
        if abs(coordinate / exact - 1) <= _ROUNDED_THIRDS:  # to the last bit as pymatgen: 0.3333 is at the limit
            return exact
    return coordinate


def _occupied(occupancies: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Positions of the sites that hold an atom."""
    occupied = []
    for i, (text, label) in enumerate(zip(occupancies, labels, strict=True)):
        occupancy = gemmi.cif.as_number(text, 1.0)  # not given means full
        if occupancy == 0:
            continue
        if occupancy < 1 - _OCCUPANCY_TOLERANCE:
            raise BadRowError("partial occupancy", f"{label} has occupancy {occupancy:g}")
        if occupancy > 1 + _OCCUPANCY_TOLERANCE:
            raise BadRowError("occupancy above 1", f"{label} has occupancy {occupancy:g}")
        occupied.append(i)
    return occupied


def _number(symbol: str) -> int:
    """Atomic number of a site's type or label (``Fe``, ``Fe3+``, ``FE1``): two letters, else one, as pymatgen."""
    plain = gemmi.cif.as_string(symbol)
    number = _NUMBERS.get(plain[:2].title()) or _NUMBERS.get(plain[:1].upper())
    if number is None or plain.startswith(_MOLECULES):
        raise BadRowError("unknown element", symbol)
    return number


def _names(block: Any, symbols: Sequence[str], numbers: Sequence[int]) -> list[str] | None:
    """Species as pymatgen names them where the file tabulates oxidation states, by which it then sorts."""
    types = [gemmi.cif.as_string(value) for value in block.find_values("_atom_type_symbol")]
    states = list(_floats(block.find_values("_atom_type_oxidation_number")))
    if not states or len(states) != len(types) or not all(map(math.isfinite, states)):
        return None
    known = dict(zip(types, states, strict=True))
    known |= {re.sub(r"\d?[+,-]?$", "", symbol): state for symbol, state in zip(types, states, strict=True)}
    elements = [SYMBOLS[number - 1] for number in numbers]
    return [
        element + _charge(known.get(gemmi.cif.as_string(symbol), known.get(element, 0.0)))
        for element, symbol in zip(elements, symbols, strict=True)
    ]


def _charge(state: float) -> str:
    size = abs(state)
    written = "" if size == 1 else f"{size:.0f}" if size == round(size) else f"{size:.2f}"
    return written + ("+" if state >= 0 else "-")


def _operations(block: Any) -> Operations | None:
    """The symmetry operations that the file lists, else those of the space group that it names; None for P1."""
    for tag in _OPERATIONS:
        if column := block.find_values(tag):
            return _listed_operations((column[0],) if len(column) == 1 else tuple(column))
    small = gemmi.make_small_structure_from_block(block)
    small.determine_and_set_spacegroup("1n")  # its name, with the first origin where it leaves the choice; its number
    if small.spacegroup is None:
        if small.spacegroup_hm or small.spacegroup_number:
            raise BadRowError("symmetry does not parse", small.spacegroup_hm or small.spacegroup_number)
        return None
    return _as_arrays(list(small.spacegroup.operations()))


@lru_cache(maxsize=256)
def _listed_operations(texts: tuple[str, ...]) -> Operations | None:
    try:
        return _as_arrays([gemmi.Op(gemmi.cif.as_string(text)) for text in texts])
    except (ValueError, RuntimeError) as error:
        raise BadRowError("symmetry does not parse", error) from None


def _as_arrays(operations: list[Any]) -> Operations | None:
    if operations == [gemmi.Op("x,y,z")]:
        return None
    return (
        np.array([operation.rot for operation in operations]) / gemmi.Op.DEN,
        np.array([operation.tran for operation in operations]) / gemmi.Op.DEN,
    )


def _expand(sites: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Coordinates (n, 3) of every atom of the cell, and which listed site each is an image of."""
    expanded = [_distinct(rotations @ site + translations) for site in sites]
    return np.concatenate(expanded), [i for i, images in enumerate(expanded) for _ in images]


def _distinct(images: np.ndarray) -> np.ndarray:
    """Images wrapped into the cell, each position once, in the order of the operations."""
    images = images - np.floor(images)
    offsets = images[:, None] - images[None]
    same = (np.abs(offsets - np.round(offsets)) < _SAME_SITE).all(axis=-1)
    return images[np.argmax(same, axis=1) == np.arange(len(images))]
