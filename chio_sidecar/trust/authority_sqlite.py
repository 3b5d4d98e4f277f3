"""An authority whose keys lie in a SQLite file (wire protocol, section 10.5)."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey
from chio_sidecar.trust.authorities import AuthorityStatus
from chio_sidecar.trust.database import Database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS authority_state (
    singleton_id INTEGER PRIMARY KEY CHECK (singleton_id = 1),
    seed_hex TEXT NOT NULL,
    public_key_hex TEXT NOT NULL,
    generation INTEGER NOT NULL,
    rotated_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS authority_trusted_keys (
    public_key_hex TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    activated_at INTEGER NOT NULL
);
"""


class SqliteAuthority:
    """An authority in a SQLite file of mode 0600, which several processes may share.

    Args:
        path: the file; it is created with a new key when it is missing.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    backend = "sqlite"

    def __init__(self, path: Path) -> None:
        self._db = Database(path, _SCHEMA, option="--authority-db")
        try:
            with self._db.write() as connection:
                if connection.execute("SELECT 1 FROM authority_state").fetchone() is None:
                    self._store(connection, SigningKey.generate(), generation=1)
            self.signing_key()
        except sqlite3.Error as exc:
            self._db.close()
            raise ConfigurationError(f"cannot use {path} (--authority-db): {exc}; name another file") from None
        except ConfigurationError:
            self._db.close()
            raise

    def status(self) -> AuthorityStatus:
        """Return the current public key and its history."""
        with self._db.read() as connection:
            key, generation, rotated_at = connection.execute(
                "SELECT public_key_hex, generation, rotated_at FROM authority_state"
            ).fetchone()
            trusted = connection.execute(
                "SELECT public_key_hex FROM authority_trusted_keys ORDER BY generation"
            ).fetchall()
        return AuthorityStatus(key, generation, rotated_at, tuple(row[0] for row in trusted))

    def signing_key(self) -> SigningKey:
        """Return the current signing key.

        Raises:
            ConfigurationError: the stored seed is no key, or belongs to another public key.
        """
        with self._db.read() as connection:
            seed, public = connection.execute("SELECT seed_hex, public_key_hex FROM authority_state").fetchone()
        try:
            key = SigningKey.from_seed_hex(seed)
        except InvalidDocument:
            key = None
        if key is None or key.public_hex != public:
            raise ConfigurationError(
                f"the signing key in {self._db.path} ({self._db.option}) is damaged; restore the file"
            )
        return key

    def rotate(self) -> AuthorityStatus:
        """Make a new signing key and keep trusting the older ones."""
        with self._db.write() as connection:
            (generation,) = connection.execute("SELECT generation FROM authority_state").fetchone()
            self._store(connection, SigningKey.generate(), generation=generation + 1)
        return self.status()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @staticmethod
    def _store(connection: sqlite3.Connection, key: SigningKey, *, generation: int) -> None:
        now = int(time.time())
        connection.execute(
            "INSERT OR REPLACE INTO authority_state VALUES (1, ?, ?, ?, ?)",
            (key.seed_hex(), key.public_hex, generation, now),
        )
        connection.execute("INSERT INTO authority_trusted_keys VALUES (?, ?, ?)", (key.public_hex, generation, now))
