"""Where a receipt store is: a SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from chio_core.errors import ConfigurationError
from chio_sidecar.store import ReceiptStore

_SCHEMES = ("postgresql", "postgres")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.IGNORECASE)
_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]*)?")
_SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
"""Options of libpq that are secrets."""
_UNREADABLE = "the URL of the database cannot be read; write postgresql://USER@HOST/DATABASE"


def is_database(text: str) -> bool:
    """Return True for the URL of a PostgreSQL database, False for the path of a file.

    Raises:
        ConfigurationError: it is another URL, for example that of a driver.
    """
    scheme, mark, _ = text.partition("://")
    if not mark or not _SCHEME.fullmatch(scheme):
        return False
    if scheme.lower() not in _SCHEMES:
        # The rest of it is not shown: it may have a password.
        raise ConfigurationError(
            f"a receipt store is a file, or a database as postgresql://USER@HOST/DATABASE; {scheme}:// is neither"
        )
    return True


@dataclass(frozen=True, slots=True)
class DatabasePlace:
    """A database that is named by a URL of libpq.

    Attributes:
        url: for libpq, without the options of Chio.
        shown: for messages, without user, password and options.
        options: those of Chio that the URL has: `key`, the file of the signing key, and `spec`, an OpenAPI document.
    """

    url: str = field(repr=False)
    shown: str
    options: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `postgresql://USER@HOST/DATABASE?…`.

        Raises:
            ConfigurationError: it is no URL, has an option twice, or a secret, which `ps` and logs would show.
        """
        try:
            parts = urlsplit(text)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise ConfigurationError(_UNREADABLE) from None
        if ":" in parts.netloc.rpartition("@")[0] or any(name in _SECRETS for name, _ in pairs):
            raise ConfigurationError(
                "the URL of the database has a password, which lists of processes and logs would show; leave it out,"
                " and give it as PGPASSWORD, in ~/.pgpass, or in a file that ?passfile= names"
            )
        if not all(map(_HOST.fullmatch, parts.netloc.rpartition("@")[2].split(","))):
            raise ConfigurationError(_UNREADABLE)  # USER:PASSWORD without a host would be shown as HOST:PORT
        own = [(name, value) for name, value in pairs if name in ("key", "spec")]
        if len(dict(own)) != len(own) or not all(value for _, value in own):
            raise ConfigurationError("the URL of the database has ?key= or ?spec= twice, or without a file")
        rest = [pair for pair in pairs if pair not in own]
        query = f"?{urlencode(rest, quote_via=quote)}" if rest else ""
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path}{query}", shown, dict(own))

    @property
    def key_path(self) -> Path | None:
        """The file of the signing key, if the URL names one."""
        return Path(self.options["key"]) if "key" in self.options else None

    @property
    def url_with_key(self) -> str:
        """The URL for a command that signs; FILE is a placeholder where the URL names no signing key."""
        separator = "&" if "?" in self.url else "?"
        return f"{self.url}{separator}key={quote(self.options.get('key', 'FILE'))}"

    @property
    def name(self) -> str:
        """The database, for people."""
        return self.shown

    def __str__(self) -> str:
        return self.shown


Place = Path | DatabasePlace
"""A receipt store that is named; it may not exist."""


def read_place(text: str) -> Place:
    """Read the path of a file, or the URL of a database.

    Raises:
        ConfigurationError: a URL cannot be read.
    """
    return DatabasePlace.parse(text) if is_database(text) else Path(text)


def open_store(place: Place, *, busy_seconds: float = 5.0, clock: Callable[[], float] = time.time) -> ReceiptStore:
    """Open a receipt store to write to it; a file is created if it is missing.

    Args:
        place: the file or the database.
        busy_seconds: how long a write waits for another process that holds the store.
        clock: seconds since 1970.

    Raises:
        ConfigurationError: the store cannot be used.
    """
    if isinstance(place, Path):
        from chio_sidecar.store.sqlite import SqliteReceiptStore

        return SqliteReceiptStore(place, busy_seconds=busy_seconds, clock=clock)
    from chio_sidecar.store.postgresql.store import PostgresqlReceiptStore

    return PostgresqlReceiptStore(place, busy_seconds=busy_seconds, clock=clock)
