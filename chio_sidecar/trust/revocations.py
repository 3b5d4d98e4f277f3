"""Which capabilities were revoked, and when (wire protocol, sections 9.6 and 10.5)."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from chio_sidecar.trust.database import Database

BACKEND = "sqlite"
"""What the service and the command call this kind of store."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS revoked_capabilities (
    capability_id TEXT PRIMARY KEY,
    revoked_at INTEGER NOT NULL
);
"""


class Revocation(NamedTuple):
    """One revoked capability; the time is in whole seconds since 1970."""

    capability_id: str
    revoked_at: int


class RevocationStore:
    """The revocation database. A revocation is never taken back.

    Args:
        path: the SQLite file, created when it is missing.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._db = Database(path, _SCHEMA, option="--revocation-db")

    def revoke(self, capability_id: str) -> bool:
        """Revoke a capability, durably, and tell whether it was still valid before."""
        with self._db.write() as connection:
            if self._row(connection, capability_id) is not None:
                return False
            connection.execute(
                "INSERT INTO revoked_capabilities (capability_id, revoked_at) VALUES (?, ?)",
                (capability_id, int(time.time())),
            )
            return True

    def is_revoked(self, capability_id: str) -> bool:
        """Tell whether this capability was revoked."""
        with self._db.read() as connection:
            return self._row(connection, capability_id) is not None

    def find(self, capability_id: str | None, limit: int) -> list[Revocation]:
        """Return the newest revocations, at most `limit`, of one capability when it is named."""
        with self._db.read() as connection:
            rows = connection.execute(
                "SELECT capability_id, revoked_at FROM revoked_capabilities"
                " WHERE ?1 IS NULL OR capability_id = ?1"
                " ORDER BY revoked_at DESC, rowid DESC LIMIT ?2",
                (capability_id, limit),
            ).fetchall()
        return [Revocation(*row) for row in rows]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @staticmethod
    def _row(connection: sqlite3.Connection, capability_id: str) -> object:
        return connection.execute(
            "SELECT 1 FROM revoked_capabilities WHERE capability_id = ?", (capability_id,)
        ).fetchone()
