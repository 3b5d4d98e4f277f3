"""The authority that signs capabilities: its key, its former keys, and their rotation (wire protocol, section 9.4).

A rotation makes a new signing key. The former public keys stay trusted: capabilities that they signed stay valid until
they expire.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.keys import existing_key, load_or_create_key
from chio_sidecar.private_files import check_private, replace_private
from chio_sidecar.store.driver import open_file, sqlite3
from chio_sidecar.store.place import Place
from chio_sidecar.store.writes import Connection
from chio_sidecar.trust.stores import open_database

NO_AUTHORITY = "there is no authority in {} (--authority-db); `trust serve --authority-db` makes one"
"""The message for a file or a database, whose name is inserted, that has no key."""


@dataclass(frozen=True)
class AuthorityStatus:
    """The public side of an authority; keys are 64 hex digits.

    Attributes:
        generation: 1 for the first key, one more with each rotation.
        rotated_at: when the current key became active, whole seconds since 1970; None if unknown.
        trusted_keys: all public keys whose signatures are accepted, oldest first.
    """

    public_key: str
    generation: int
    rotated_at: int | None
    trusted_keys: tuple[str, ...]


class Authority(Protocol):
    """The signing key of an authority, and where it is kept. Calls may block for a disk write."""

    @property
    def backend(self) -> str:
        """Name of this kind of authority on the wire: `sqlite`, `postgresql` or `seed_file`."""

    def status(self) -> AuthorityStatus:
        """Return the current public key and its history."""

    def signing_key(self) -> SigningKey:
        """Return the current signing key."""

    def rotate(self) -> AuthorityStatus:
        """Make a new signing key and keep trusting the former ones."""

    def close(self) -> None:
        """Release what is open."""


class SeedFileAuthority:
    """An authority in a seed file. Only one process at a time may rotate it.

    Args:
        path: the seed file, created with a new key if it is missing and there are no former keys.

    Raises:
        ConfigurationError: the seed file or the list of former keys cannot be used, or the seed file is lost.
    """

    backend = "seed_file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._former_path = path.with_name(path.name + ".former")
        self._lock = threading.Lock()
        # Former public key → when its successor became active.
        self._former: dict[str, int] = {}
        try:
            check_private(self._former_path, "list of former keys")
            for line in self._former_path.read_text("ascii").splitlines():
                key, seconds = line.split()
                self._former[normalize_public_key(key)] = int(seconds)
        except FileNotFoundError:
            pass
        except (InvalidDocument, OSError, ValueError):
            raise ConfigurationError(
                f"cannot read {self._former_path}, the former keys of --authority-seed-file; each line must be"
                " a public key of 64 hex digits and a time in seconds"
            ) from None
        if self._former and existing_key(path) is None:
            raise ConfigurationError(
                f"{path} (--authority-seed-file) is missing, and was made to follow {[*self._former][-1]}; restore it"
                f" from a backup, or move {self._former_path} away too: what those keys signed is then refused"
            )
        self._key = load_or_create_key(path)

    def status(self) -> AuthorityStatus:
        """Return the current public key and its history."""
        with self._lock:
            current, former = self._key.public_hex, dict(self._former)
        # A crash between the two writes of a rotation leaves the current key in the list of former ones.
        former.pop(current, None)
        rotated_at = max(former.values(), default=None)
        return AuthorityStatus(current, len(former) + 1, rotated_at, (*former, current))

    def signing_key(self) -> SigningKey:
        """Return the current signing key."""
        return self._key

    def rotate(self) -> AuthorityStatus:
        """Make a new signing key and keep trusting the former ones."""
        with self._lock:
            former = self._former | {self._key.public_hex: int(time.time())}
            replacement = SigningKey.generate()
            # The list first: after a crash between the two writes no key that signed is missing from it.
            _replace(self._former_path, "".join(f"{key} {seconds}\n" for key, seconds in former.items()))
            _replace(self._path, replacement.seed_hex() + "\n")
            self._former, self._key = former, replacement
        return self.status()

    def close(self) -> None:
        """Do nothing: no file stays open."""


def _replace(path: Path, text: str) -> None:
    try:
        replace_private(path, text.encode("ascii"))
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}; its folder must be writable") from None


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


class DatabaseAuthority:
    """An authority in a SQLite file of mode 0600, or in a database, which several processes may share.

    Args:
        path: the file or the database.
        create: make a key if there is none.

    Raises:
        ConfigurationError: it cannot be used, or has no key and `create` is False.
    """

    def __init__(self, path: Place, *, create: bool = True) -> None:
        # Opening makes a file, and the tables in the file of another program.
        if not create and isinstance(path, Path) and not _has_authority(path):
            raise ConfigurationError(NO_AUTHORITY.format(path))
        self._db = open_database(path, _SCHEMA, option="--authority-db")
        self.backend = self._db.backend
        try:
            with self._db.write() as connection:
                if connection.execute("SELECT 1 FROM authority_state").fetchone() is None:
                    if not create:
                        raise ConfigurationError(NO_AUTHORITY.format(self._db.path))
                    # The history can be older than the key: a copy of a database does not have the key.
                    known = connection.execute("SELECT coalesce(max(generation), 0) FROM authority_trusted_keys")
                    self._store(connection, generation=known.fetchone()[0] + 1)
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
            ConfigurationError: the stored seed is not a key, or belongs to another public key.
        """
        with self._db.read() as connection:
            seed, public = connection.execute("SELECT seed_hex, public_key_hex FROM authority_state").fetchone()
        try:
            key = SigningKey.from_seed_hex(seed)
        except InvalidDocument:
            key = None
        if key is None or key.public_hex != public:
            raise ConfigurationError(f"the signing key in {self._db.path} ({self._db.option}) is damaged; restore it")
        return key

    def rotate(self) -> AuthorityStatus:
        """Make a new signing key and keep trusting the former ones."""
        with self._db.write() as connection:
            (generation,) = connection.execute("SELECT generation FROM authority_state").fetchone()
            self._store(connection, generation=generation + 1)
        return self.status()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @staticmethod
    def _store(connection: Connection, *, generation: int) -> None:
        key, now = SigningKey.generate(), int(time.time())
        connection.execute(
            "INSERT INTO authority_state VALUES (1, ?, ?, ?, ?) ON CONFLICT (singleton_id) DO UPDATE"
            " SET seed_hex = excluded.seed_hex, public_key_hex = excluded.public_key_hex,"
            " generation = excluded.generation, rotated_at = excluded.rotated_at",
            (key.seed_hex(), key.public_hex, generation, now),
        )
        connection.execute("INSERT INTO authority_trusted_keys VALUES (?, ?, ?)", (key.public_hex, generation, now))


def open_authority(database: Place | None, seed_file: Path | None) -> Authority | None:
    """Open the authority that the options name; return None if they name none.

    Raises:
        ConfigurationError: both are named, or the file cannot be used.
    """
    if database and seed_file:
        raise ConfigurationError("--authority-db and --authority-seed-file name two authorities; give only one")
    if database:
        return DatabaseAuthority(database)
    return SeedFileAuthority(seed_file) if seed_file else None


def _has_authority(file: Path) -> bool:
    """Return True if a file has the table of an authority, or cannot be read; another file is left as it is."""
    if not file.exists():
        return False
    try:
        with closing(open_file(file, "mode=ro", busy_seconds=5.0)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'authority_state'").fetchone()
    except sqlite3.Error:
        return True  # what is wrong with it is said where it is opened
    return found is not None
