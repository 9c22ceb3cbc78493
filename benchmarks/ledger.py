"""Results a second that a ledger takes: claimed and finished, with one wait for the disk a turn or one for each.

    python benchmarks/ledger.py [-n 20000] [--folder DIR]

A turn of the local backend records what has ended since the last and claims as many; while the disk is waited for, more
calculations end, so that turns grow as results come faster.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from voxtal.cli.common import print_table
from voxtal.ledger import Calculation, Ledger

STRUCTURE = '{"numbers":[29,29,29,79],"frac_coords":' + str([[0.12345678] * 3] * 4) + ',"cell":' + str([[3.9] * 3] * 3)


def calculations(n: int, name: str) -> list[Calculation]:
    return [Calculation(f"{name}-{k}", "candidate", 0, "emt", "{}", f"{STRUCTURE},{k}", "emt") for k in range(n)]


def fill(path: Path, works: list[Calculation], turn: int) -> float:
    """Seconds to claim and finish all, ``turn`` in a transaction."""
    with Ledger(path) as ledger:
        began = time.perf_counter()
        for first in range(0, len(works), turn):
            with ledger.batch():
                for work in works[first : first + turn]:
                    ledger.claim(work)
                    ledger.finish(work.key, status="converged", relaxed=STRUCTURE, energy_per_atom=-1.0)
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument(
        "--folder", type=Path, help="On the file system that is measured; a temporary one if not given."
    )
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "ledger.sqlite"
        for turn in (1, 4, 16, 64):
            works = calculations(max(200, arguments.n * turn // 64), f"turns-of-{turn}")
            seconds = fill(path, works, turn)
            rows.append((turn, len(works), f"{seconds:.1f}", f"{len(works) / seconds:,.0f}"))
        with Ledger(path) as ledger:
            began = time.perf_counter()
            known = sum(ledger.result(work.key) is not None for work in works)
            asked = time.perf_counter() - began
    print_table("Results into the ledger", ("results a turn", "results", "seconds", "a second"), rows)
    print(f"Known results looked up: {known / asked:,.0f} a second")


if __name__ == "__main__":
    main()
