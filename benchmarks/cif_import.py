"""CIF to arrays: pymatgen's parser and voxtal's, their time and whether they read the same crystal.

    python benchmarks/cif_import.py ../shared/data/*.csv.gz [--rows 600 | --all]

Identical: the same elements in the same order, fractional coordinates equal modulo 1 to 1e-9 and the lattice matrix
to 1e-9 A. The two parsers take turns over blocks of the same rows, one process, CPU time; of a sample the fastest of
three turns counts, of all rows the only one. StructureMatcher compares every tenth row.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.cif import CifParser

from voxtal.cli.common import print_table, progress
from voxtal.structures.cif import parse_cif
from voxtal.structures.filters import Arrays
from voxtal.structures.rows import RawRow
from voxtal.structures.sources import open_source

BLOCK = 1000
MATCHED_EVERY = 10
TOLERANCE = 1e-9


def pymatgen_reads(text: str) -> Structure:
    """The cell as the file gives it, by pymatgen."""
    return CifParser.from_str(text).parse_structures(primitive=False)[0]


def identical(arrays: Arrays, structure: Structure) -> bool:
    """Same elements in the same order, same coordinates modulo 1, same lattice."""
    numbers, frac_coords, cell = arrays
    if numbers.tolist() != list(structure.atomic_numbers):
        return False
    offsets = frac_coords - structure.frac_coords
    return (
        np.abs(offsets - np.round(offsets)).max() < TOLERANCE
        and np.abs(cell - structure.lattice.matrix).max() < TOLERANCE
    )


def timed(parse: Callable[[str], Any], texts: list[str], turns: int) -> float:
    """CPU seconds of the fastest turn."""
    seconds = []
    for _ in range(turns):
        start = time.process_time()
        for text in texts:
            parse(text)
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(texts: list[str], turns: int, advance: Callable[[int], None]) -> tuple[float, float, int, int, int]:
    """CPU seconds of pymatgen and of voxtal; rows that are identical, that match and that were matched."""
    matcher = StructureMatcher(primitive_cell=False, scale=False)
    theirs, ours, same, matching, matched = 0.0, 0.0, 0, 0, 0
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        theirs += timed(pymatgen_reads, block, turns)
        ours += timed(parse_cif, block, turns)
        for i, text in enumerate(block):
            arrays, structure = parse_cif(text), pymatgen_reads(text)
            same += identical(arrays, structure)
            if i % MATCHED_EVERY == 0:
                matched += 1
                matching += matcher.fit(Structure(arrays[2], arrays[0], arrays[1]), structure)
        advance(len(block))
    return theirs, ours, same, matching, matched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=600, help="evenly spread over all files together")
    parser.add_argument("--all", action="store_true", help="every row, each timed once")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    files = {
        path.name: [row.payload for row in open_source(path, {}) if isinstance(row, RawRow)]
        for path in arguments.tables
    }
    step = 1 if arguments.all else max(1, sum(map(len, files.values())) // arguments.rows)
    sample = {name: texts[::step] for name, texts in files.items()}
    turns = 1 if arguments.all else 3
    timed(pymatgen_reads, next(iter(sample.values()))[:1], 1)
    measured = {}
    with progress("parse", sum(map(len, sample.values()))) as advance:
        for name, texts in sample.items():
            measured[name] = (len(texts), *measure(texts, turns, advance))
    measured["together"] = tuple(map(sum, zip(*measured.values(), strict=True)))
    print_table(
        "milliseconds a CIF",
        ("file", "pymatgen", "voxtal", "ratio", "identical / compared", "StructureMatcher"),
        [
            (
                name,
                round(1e3 * theirs / n, 3),
                round(1e3 * ours / n, 4),
                round(theirs / ours, 1),
                f"{same} / {n}",
                f"{matching} / {matched}",
            )
            for name, (n, theirs, ours, same, matching, matched) in measured.items()
        ],
    )


if __name__ == "__main__":
    main()
