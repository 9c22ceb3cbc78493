"""Tables of pseudopotentials: which file, with which checksum, needs which cutoffs.

A table is the JSON that comes with SSSP (Materials Cloud): element -> ``filename``, ``md5``, ``cutoff_wfc`` and
``cutoff_rho`` (Ry). ``python -m voxtal.calculators.pseudopotentials FOLDER -o table.json`` makes one of own files.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from voxtal.errors import UserError
from voxtal.runs import read_json, write_json

FUNCTIONALS = {
    "SLA PW PBX PBC": "pbe",
    "SLA PW PBE PBE": "pbe",
    "PBE": "pbe",
    "SLA PW PSX PSC": "pbesol",
    "PBESOL": "pbesol",
    "SLA PZ NOGX NOGC": "pz",
    "PZ": "pz",
    "SLA PW NOGX NOGC": "pw",
}
"""The spellings in headers of UPF files; any other one is taken as it is written."""

_SUFFIXES = (".upf",)
_HEADER_BYTES = 400_000
"""Where the header of a file ends at the latest: some hold their generator's whole input before it."""


@dataclass(frozen=True)
class Pseudopotential:
    """A row of a table."""

    filename: str
    md5: str
    cutoff_wfc: float
    """Plane waves of the wavefunctions, Ry."""
    cutoff_rho: float
    """Plane waves of the charge density, Ry."""


@dataclass(frozen=True)
class UpfHeader:
    """What the header of a UPF file tells; cutoffs (Ry) are 0 where it suggests none."""

    element: str
    functional: str
    cutoff_wfc: float
    cutoff_rho: float


Table = Mapping[str, Pseudopotential]


def read_table(path: Path, elements: Sequence[str] = ()) -> Table:
    """The table in ``path``, or its part for ``elements``, sorted by element.

    Raises
    ------
    UserError
        There is no such file, it is no table, or lacks one of ``elements``; the message names every one.
    """
    if not path.is_file():
        raise UserError(
            f"There is no table of pseudopotentials {path}. Take the JSON of SSSP, or make one of your files with "
            "python -m voxtal.calculators.pseudopotentials FOLDER -o table.json"
        )
    content = read_json(path)
    try:
        table = {
            symbol: Pseudopotential(
                row["filename"], row["md5"].lower(), float(row["cutoff_wfc"]), float(row["cutoff_rho"])
            )
            for symbol, row in sorted(content.items())
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no table of pseudopotentials ({type(error).__name__}: {error}): each element needs filename, "
            "md5, cutoff_wfc and cutoff_rho (Ry)."
        ) from None
    missing = sorted(set(elements) - table.keys())
    if missing:
        raise UserError(f"{path} has no pseudopotential for {', '.join(missing)}; it has {', '.join(table)}.")
    return {symbol: row for symbol, row in table.items() if not elements or symbol in elements}


def cutoffs(table: Table) -> tuple[float, float]:
    """Cutoffs (Ry) of wavefunctions and density that satisfy every row of ``table``."""
    wavefunctions = max(row.cutoff_wfc for row in table.values())
    return wavefunctions, max(4 * wavefunctions, *(row.cutoff_rho for row in table.values()))


def problems_of(table: Table, folder: Path, symbols: Iterable[str]) -> list[str]:
    """What keeps a calculation with ``symbols`` from starting, one line each."""
    found = []
    for symbol in sorted(set(symbols)):
        row = table.get(symbol)
        if row is None:
            found.append(f"no pseudopotential for {symbol}")
        elif not (folder / row.filename).is_file():
            found.append(f"{symbol}: there is no file {folder / row.filename}")
        elif md5_of(folder / row.filename) != row.md5:
            found.append(f"{symbol}: {folder / row.filename} is not the file of the table (md5 differs)")
    return found


def functional_of(table: Table, folder: Path) -> str:
    """The functional that all files of ``table`` that are in ``folder`` were made with.

    Raises
    ------
    UserError
        There is none of the files, or they are of several functionals.
    """
    files: dict[str, list[str]] = {}
    for row in table.values():
        if (folder / row.filename).is_file():
            files.setdefault(read_header(folder / row.filename).functional, []).append(row.filename)
    if not files:
        raise UserError(f"None of the table's pseudopotentials are in {folder}; set relax.options.folder.")
    if len(files) > 1:
        found = "; ".join(f"{name}: {', '.join(sorted(of))}" for name, of in sorted(files.items()))
        raise UserError(f"The pseudopotentials are of several functionals, which must not be mixed: {found}.")
    return next(iter(files))


def read_header(path: Path) -> UpfHeader:
    """Header of a UPF file, of version 1 or 2.

    Raises
    ------
    UserError
        It has no such header.
    """
    with open(path, "rb") as file:
        text = file.read(_HEADER_BYTES).decode("latin-1")
    header = re.search(r"<PP_HEADER(.*?)/?>", text, flags=re.DOTALL)
    if header is None:
        raise UserError(f"{path} is no UPF file: it has no PP_HEADER.")
    attributes = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', header[1]))
    try:
        if attributes:
            cutoffs_ry = [float(attributes.get(name, 0)) for name in ("wfc_cutoff", "rho_cutoff")]
            return UpfHeader(attributes["element"].strip(), _functional(attributes["functional"]), *cutoffs_ry)
        lines = text[header.end() :].split("</PP_HEADER>")[0].splitlines()
        value = {words: line for line in lines for words in ("Element", "Exchange-Correlation", "wfc") if words in line}
        wavefunctions, density = (float(word) for word in value["wfc"].split()[:2])
        functional = " ".join(value["Exchange-Correlation"].split()[:4])
        return UpfHeader(value["Element"].split()[0], _functional(functional), wavefunctions, density)
    except (KeyError, ValueError) as error:
        raise UserError(f"The header of {path} cannot be read ({error}).") from None


def make_table(files: Iterable[Path], cutoff_wfc: float | None = None, cutoff_rho: float | None = None) -> Table:
    """A table of ``files``, with the cutoffs (Ry) given, or else those that their headers suggest.

    ``cutoff_rho`` is four times ``cutoff_wfc`` where neither tells it.

    Raises
    ------
    UserError
        Two files of one element, or one that suggests no cutoff; the message names them all.
    """
    table: dict[str, Pseudopotential] = {}
    problems = []
    for path in files:
        header = read_header(path)
        wavefunctions = cutoff_wfc or header.cutoff_wfc
        density = cutoff_rho or (header.cutoff_rho if cutoff_wfc is None else 0.0) or 4 * wavefunctions
        if header.element in table:
            problems.append(f"{path.name} and {table[header.element].filename} are both of {header.element}; name one")
        elif not wavefunctions:
            problems.append(f"{path.name} suggests no cutoff; give --cutoff-wfc")
        else:
            table[header.element] = Pseudopotential(path.name, md5_of(path), wavefunctions, density)
    if problems:
        raise UserError("\n  ".join(["No table was made:", *problems]))
    return dict(sorted(table.items()))


def md5_of(path: Path) -> str:
    """Checksum of a file as in the tables of SSSP."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_table(path: Path, table: Table) -> None:
    write_json(path, {symbol: asdict(row) for symbol, row in table.items()})


def _functional(text: str) -> str:
    words = " ".join(text.upper().split())
    return FUNCTIONALS.get(words, words.lower().replace(" ", "-"))


def _files_in(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not path.is_file():
        raise UserError(f"There is no file or folder {path}.")
    return [path]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a table from the command line; the exit code."""
    parser = argparse.ArgumentParser("python -m voxtal.calculators.pseudopotentials", description=make_table.__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="UPF files, one an element, or a folder of such")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the table, beside the files if it can be")
    parser.add_argument("--cutoff-wfc", type=float, help="of the wavefunctions, Ry")
    parser.add_argument("--cutoff-rho", type=float, help="of the density, Ry")
    options = parser.parse_args(arguments)
    try:
        files = [file for path in options.files for file in _files_in(path)]
        table = make_table(files, options.cutoff_wfc, options.cutoff_rho)
        write_table(options.output, table)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    for symbol, row in table.items():
        print(f"{symbol:2s}  {row.cutoff_wfc:6.1f} {row.cutoff_rho:7.1f} Ry  {row.filename}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
