"""The ledger of a run: every calculation and every candidate, failed ones too, in one SQLite file.

It is the truth for restarts: a calculation is claimed before it starts and finished once, and the same
calculation (structure, method, settings) is never run twice. Calculations may also wait in it, for whichever process
claims them next.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from voxtal import owners
from voxtal.ledger_file import open_connection, transaction

UNFINISHED = "('waiting', 'running')"
"""States of a calculation without a result, as SQL."""

CANDIDATE_COLUMNS = (
    "id",
    "round",
    "seed",
    "model",
    "formula",
    "outcome",
    "reason",
    "predicted_formation_energy",
)

ClaimAnswer = Literal["ours", "finished", "taken"]


@dataclass(frozen=True)
class Calculation:
    """What is to be calculated, in plain values.

    ``initial`` is the structure as compact JSON text and ``settings`` the relaxation's settings as JSON text,
    both written the same way every time, for they make the key. ``calculator`` is the calculator's name and options
    as JSON text, and ``folder`` where it may keep files: for the process that claims it.
    """

    id: str
    purpose: str
    round: int
    method: str
    settings: str
    initial: str
    calculator: str = ""
    folder: str = ""

    @property
    def key(self) -> str:
        """Hash of structure, method and settings."""
        return hashlib.sha256("\n".join((self.initial, self.method, self.settings)).encode()).hexdigest()


class Ledger:
    """One run's ledger; made where there is none.

    Parameters
    ----------
    path : Path
        The SQLite file.

    Raises
    ------
    UserError
        The file is no database, no ledger, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.owner = owners.this_process()
        self._connection = open_connection(path)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def claim(self, calculation: Calculation) -> ClaimAnswer:
        """Take a calculation for this process.

        Returns
        -------
        ``"ours"``
            Run it now and :meth:`finish` it. A claim of a dead process is taken over.
        ``"finished"``
            It has a result already, maybe a failure.
        ``"taken"``
            Another process that is alive runs it.
        """
        now = time.time()
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT status, owner, heartbeat FROM calculations WHERE key = ?", (calculation.key,)
            ).fetchone()
            if row is None:
                self._insert(calculation, "running", self.owner, now)
                return "ours"
            if row["status"] not in ("waiting", "running"):
                return "finished"
            another = row["status"] == "running" and row["owner"] != self.owner
            if another and owners.is_alive(row["owner"], row["heartbeat"], now):
                return "taken"
            self._take(calculation.key, now, again=another)
            return "ours"

    def enqueue(self, calculations: Iterable[Calculation]) -> int:
        """Let calculations wait for whichever process claims them; how many of them the ledger did not know.

        One that runs, for a process that does not take from the queue, will wait if that process dies.
        """
        new = 0
        with self._transaction() as connection:
            for calculation in calculations:
                new += self._insert(calculation, "waiting", "", time.time(), queued=True)
                connection.execute(
                    "UPDATE calculations SET queued = 1, calculator = ?, folder = ? WHERE key = ?"
                    f" AND status IN {UNFINISHED}",
                    (calculation.calculator, calculation.folder, calculation.key),
                )
        return new

    def waiting(self) -> list[Calculation]:
        """All that waits, in the order in which it came: elements come before what needs them."""
        rows = self._connection.execute(
            "SELECT id, purpose, round, method, settings, initial, calculator, folder FROM calculations"
            " WHERE status = 'waiting' ORDER BY rowid"
        )
        return [Calculation(**dict(row)) for row in rows]

    def revive(self) -> int:
        """Let the queued calculations of dead owners wait again; their number."""
        now = time.time()
        with self._transaction() as connection:
            running = connection.execute(
                "SELECT owner, max(heartbeat) AS heartbeat FROM calculations"
                " WHERE status = 'running' AND queued AND owner != ? GROUP BY owner",
                (self.owner,),
            ).fetchall()
            dead = [row["owner"] for row in running if not owners.is_alive(row["owner"], row["heartbeat"], now)]
            changed = [
                connection.execute(
                    "UPDATE calculations SET status = 'waiting', owner = '', attempts = attempts + 1"
                    " WHERE status = 'running' AND queued AND owner = ?",
                    (owner,),
                ).rowcount
                for owner in dead
            ]
        return sum(changed)

    def hand_over(self, key: str, owner: str) -> None:
        """Let a claimed calculation belong to ``owner``, a job of a workflow engine."""
        with self._transaction() as connection:
            connection.execute("UPDATE calculations SET owner = ? WHERE key = ?", (owner, key))

    def owned(self, prefix: str) -> dict[str, str]:
        """Key -> owner of the running calculations whose owner begins with ``prefix``."""
        rows = self._connection.execute(
            "SELECT key, owner FROM calculations WHERE status = 'running' AND substr(owner, 1, ?) = ?",
            (len(prefix), prefix),
        )
        return {row["key"]: row["owner"] for row in rows}

    def attempts(self, key: str) -> int:
        """How often a calculation has been begun."""
        return int(self._connection.execute("SELECT attempts FROM calculations WHERE key = ?", (key,)).fetchone()[0])

    def again(self, key: str) -> None:
        """Count another attempt of a claimed calculation."""
        with self._transaction() as connection:
            connection.execute("UPDATE calculations SET attempts = attempts + 1 WHERE key = ?", (key,))

    def forget(self, keys: Iterable[str]) -> int:
        """Delete failed calculations, and those that are with a workflow engine, so that they are run; their number."""
        with self._transaction() as connection:
            return sum(
                connection.execute(
                    "DELETE FROM calculations WHERE key = ? AND (status = 'failed' OR"
                    f" (status = 'running' AND owner GLOB '{owners.ENGINE}:*'))",
                    (key,),
                ).rowcount
                for key in keys
            )

    def _insert(self, calculation: Calculation, status: str, owner: str, now: float, *, queued: bool = False) -> int:
        return self._connection.execute(
            "INSERT OR IGNORE INTO calculations (key, id, purpose, round, method, settings, status, initial,"
            " calculator, folder, queued, owner, started, heartbeat)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                calculation.key,
                calculation.id,
                calculation.purpose,
                calculation.round,
                calculation.method,
                calculation.settings,
                status,
                calculation.initial,
                calculation.calculator,
                calculation.folder,
                queued,
                owner,
                now,
                now,
            ),
        ).rowcount

    def _take(self, key: str, now: float, *, again: bool) -> None:
        self._connection.execute(
            "UPDATE calculations SET status = 'running', owner = ?, started = ?, heartbeat = ?,"
            " attempts = attempts + ? WHERE key = ?",
            (self.owner, now, now, again, key),
        )

    def finish(
        self,
        key: str,
        *,
        status: str,
        reason: str = "",
        relaxed: str | None = None,
        energy_per_atom: float | None = None,
        energy_per_atom_before: float | None = None,
        steps: int = 0,
        wall_seconds: float = 0.0,
    ) -> None:
        """Record the outcome of a claimed calculation; a finished one is never overwritten."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE calculations SET status = ?, reason = ?, relaxed = ?, energy_per_atom = ?,"
                " energy_per_atom_before = ?, steps = ?, wall_seconds = ?, finished = ?"
                " WHERE key = ? AND status = 'running'",
                (
                    status,
                    reason,
                    relaxed,
                    energy_per_atom,
                    energy_per_atom_before,
                    steps,
                    wall_seconds,
                    time.time(),
                    key,
                ),
            )

    def release(self) -> None:
        """Give back what this process has claimed and not finished; the next start, or another process, runs it."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE calculations SET status = 'waiting', owner = '' WHERE status = 'running' AND queued"
                " AND owner = ?",
                (self.owner,),
            )
            connection.execute("DELETE FROM calculations WHERE status = 'running' AND owner = ?", (self.owner,))

    def beat(self) -> None:
        """Tell other hosts that this process is alive."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE calculations SET heartbeat = ? WHERE status = 'running' AND owner = ?",
                (time.time(), self.owner),
            )

    def result(self, key: str) -> dict[str, Any] | None:
        """The finished row of a calculation, or None where it is unknown or running."""
        row = self._connection.execute(
            f"SELECT * FROM calculations WHERE key = ? AND status NOT IN {UNFINISHED}", (key,)
        ).fetchone()
        return dict(row) if row else None

    def calculations(self, method: str | None = None, up_to_round: int | None = None) -> list[dict[str, Any]]:
        """Finished rows, failures too, in the order in which they were started."""
        rows = self._connection.execute(
            f"SELECT * FROM calculations WHERE status NOT IN {UNFINISHED} AND (?1 IS NULL OR method = ?1)"
            " AND (?2 IS NULL OR round <= ?2) ORDER BY rowid",
            (method, up_to_round),
        )
        return [dict(row) for row in rows]

    def counts(self, round: int | None = None) -> dict[tuple[str, str], int]:
        """Number of calculations by ``(purpose, status)``, of one round or of all."""
        rows = self._connection.execute(
            "SELECT purpose, status, count(*) FROM calculations WHERE ?1 IS NULL OR round = ?1"
            " GROUP BY purpose, status ORDER BY purpose, status",
            (round,),
        )
        return {(purpose, status): n for purpose, status, n in rows}

    def reasons(self, round: int | None = None) -> dict[tuple[str, str], int]:
        """Number of calculations that came with a reason, by ``(purpose, reason)``, most frequent first."""
        rows = self._connection.execute(
            "SELECT purpose, reason, count(*) AS n FROM calculations"
            " WHERE reason != '' AND (?1 IS NULL OR round = ?1)"
            " GROUP BY purpose, reason ORDER BY n DESC, reason",
            (round,),
        )
        return {(purpose, reason): n for purpose, reason, n in rows}

    def methods(self) -> list[str]:
        """Fingerprints of all methods in the ledger."""
        rows = self._connection.execute("SELECT DISTINCT method FROM calculations ORDER BY method")
        return [row[0] for row in rows]

    def record_candidates(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add candidates, or replace them by id; keys are :data:`CANDIDATE_COLUMNS`, missing ones empty."""
        values: Sequence[tuple[Any, ...]] = [
            tuple(row.get(column, "" if column == "reason" else None) for column in CANDIDATE_COLUMNS) for row in rows
        ]
        marks = ", ".join("?" * len(CANDIDATE_COLUMNS))
        with self._transaction() as connection:
            connection.executemany(
                f"INSERT OR REPLACE INTO candidates ({', '.join(CANDIDATE_COLUMNS)}) VALUES ({marks})", values
            )

    def candidates(self, round: int | None = None) -> list[dict[str, Any]]:
        """Candidates of one round, or of all, by round and id."""
        rows = self._connection.execute(
            "SELECT * FROM candidates WHERE ?1 IS NULL OR round = ?1 ORDER BY round, id", (round,)
        )
        return [dict(row) for row in rows]

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make everything within one transaction: it costs one wait for the disk, and is kept as a whole."""
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._connection.in_transaction:  # within a batch
            yield self._connection
        else:
            with transaction(self._connection):
                yield self._connection
