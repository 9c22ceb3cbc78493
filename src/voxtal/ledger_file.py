"""The ledger's SQLite file: its tables, their versions, and how it is opened on file systems that many nodes share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from voxtal.errors import UserError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x766F7874  # "voxt": tells our file from any other SQLite file

_TABLES = """
CREATE TABLE calculations (
    key TEXT PRIMARY KEY, id TEXT NOT NULL, purpose TEXT NOT NULL, round INTEGER NOT NULL,
    method TEXT NOT NULL, settings TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '',
    initial TEXT NOT NULL, relaxed TEXT, energy_per_atom REAL, energy_per_atom_before REAL,
    steps INTEGER, wall_seconds REAL, owner TEXT NOT NULL, started REAL NOT NULL, heartbeat REAL NOT NULL,
    finished REAL, attempts INTEGER NOT NULL DEFAULT 1,
    queued INTEGER NOT NULL DEFAULT 0, calculator TEXT NOT NULL DEFAULT '', folder TEXT NOT NULL DEFAULT ''
);
CREATE INDEX calculations_by_purpose ON calculations (purpose, status, method);
CREATE TABLE candidates (
    id TEXT PRIMARY KEY, round INTEGER NOT NULL, seed INTEGER, model TEXT, formula TEXT,
    outcome TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', predicted_formation_energy REAL
);
"""

_FROM_VERSION_1 = """
ALTER TABLE calculations ADD COLUMN queued INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calculations ADD COLUMN calculator TEXT NOT NULL DEFAULT '';
ALTER TABLE calculations ADD COLUMN folder TEXT NOT NULL DEFAULT '';
UPDATE calculations SET owner = owner || ':-';
"""


def open_connection(path: Path) -> sqlite3.Connection:
    """Connect to the ledger at ``path``; made where there is none, brought up to date where it is older.

    Raises
    ------
    UserError
        The file is no database, no ledger, or of another version.
    """
    connection = sqlite3.connect(path, timeout=60.0, isolation_level=None)
    connection.row_factory = sqlite3.Row
    try:
        # A rollback journal, not WAL: WAL keeps its index in memory shared through mmap, which does not
        # exist between the nodes of NFS, Lustre or GPFS.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):
            _prepare(connection, path)
    except sqlite3.OperationalError:
        connection.close()
        raise
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UserError(f"{path} is not a voxtal ledger ({error}); move it away and run the command again.") from None
    except UserError:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All within the block, or nothing of it."""
    try:
        # IMMEDIATE takes the write lock at once: two claims of one key cannot both read "not there".
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if version == 0 and empty:
        statements = f"{_TABLES} PRAGMA user_version = {SCHEMA_VERSION}; PRAGMA application_id = {APPLICATION_ID}"
    elif application != APPLICATION_ID:
        raise UserError(f"{path} is an SQLite file of something else, not a voxtal ledger.")
    elif version == 1:
        statements = f"{_FROM_VERSION_1} PRAGMA user_version = {SCHEMA_VERSION}"
    elif version == SCHEMA_VERSION:
        return
    else:
        raise UserError(
            f"{path} is a ledger of version {version}; this voxtal reads version {SCHEMA_VERSION}. Use the voxtal "
            "that made it, or start a new run directory."
        )
    for statement in statements.split(";"):
        connection.execute(statement)
