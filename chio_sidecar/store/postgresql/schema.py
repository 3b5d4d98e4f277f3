"""The schema of a database: its version, its state, and the migration. Its tables are in `tables`.

A newer schema may serve older sidecars: each version states the oldest one that still works with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psycopg import Error, errors, sql

from chio_core.errors import ConfigurationError
from chio_sidecar.store.driver import Unavailable
from chio_sidecar.store.postgresql.connection import Connection, trouble
from chio_sidecar.store.postgresql.decide import DECIDE
from chio_sidecar.store.postgresql.functions import APPENDING, FUNCTIONS, HORIZON, INDEXES
from chio_sidecar.store.postgresql.rights import ARCHIVE_GRANTS, ERASE_GRANTS, GRANTS, TOO_MUCH, TRUST_GRANTS
from chio_sidecar.store.postgresql.tables import SCHEMA_VERSION, STEPS

MIGRATE = "run: chio-sidecar store migrate --receipt-store URL, as the role that owns the tables"

_INDEXED = 4
"""The first version with indexes for filters."""
_INDEX_SECONDS = 24 * 3600.0
"""How long these may take together."""

_VERSION = "SELECT version, oldest FROM chio.schema_version ORDER BY version DESC LIMIT 1"
_LOGS = """
SELECT log_id, l.seq, coalesce(b.seq, 0), l.digest, holder, leased_until > clock_timestamp(), (
    SELECT coalesce(json_agg(json_build_object('kernel_key', k.kernel_key, 'first', k.seq,
        'since', floor(extract(epoch FROM k.since))) ORDER BY k.seq), '[]')
    FROM chio.kernel_keys k WHERE k.log_id = l.log_id
)
FROM chio.logs l LEFT JOIN chio.receipt_chain_base b USING (log_id) ORDER BY log_id
"""
_STATE = "SELECT current_setting('synchronous_commit'), pg_is_in_recovery()"
_OFF = """
SELECT name FROM pg_settings WHERE name IN ('array_nulls', 'standard_conforming_strings') AND setting = 'off'
"""  # with which the database reads an array with a NULL, or a text with a backslash, as something else


@dataclass(frozen=True, slots=True)
class Migrated:
    """The versions before and after; 0 for a database without the tables."""

    before: int
    after: int


def version(connection: Connection) -> tuple[int, int]:
    """Return the version of the tables and the oldest sidecar's that works with them; zeros without tables.

    Raises:
        psycopg.Error: they cannot be read.
    """
    try:
        found = connection.execute(_VERSION).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return 0, 0
    return (0, 0) if found is None else (int(found[0]), int(found[1]))


@dataclass(frozen=True, slots=True)
class LogStatus:
    """The log of one sidecar.

    Attributes:
        rows: number of its receipts, with those that were archived and removed.
        archived: number of those.
        head: digest of the newest one, for an auditor to keep.
        holder: host and process that claimed it last.
        is_held: the claim has not ended.
        keys: the public keys (`kernel_key`) that signed it, each from row `first` on, which was stored `since` (seconds
            since 1970). Rows that an earlier version of the tables has stored have none.
    """

    number: int
    rows: int
    archived: int
    head: str
    holder: str
    is_held: bool
    keys: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Status:
    """The tables; `oldest` is the oldest schema version of a sidecar that works with them."""

    version: int
    oldest: int
    logs: list[LogStatus]

    def document(self) -> dict[str, Any]:
        """Return the status as a JSON object."""
        return asdict(self)


def status(connection: Connection) -> Status:
    """Return version and logs.

    Raises:
        ConfigurationError: there are no tables, or they cannot be read.
    """
    try:
        found, oldest = version(connection)
        if not found:
            raise ConfigurationError(f"the database has no receipt store yet; {MIGRATE}")
        return Status(found, oldest, [LogStatus(*row) for row in connection.execute(_LOGS).fetchall()])
    except Error as exc:
        raise ConfigurationError(f"cannot read the database: {trouble(exc) or exc}") from None


def check(connection: Connection, shown: str) -> None:
    """Return if a sidecar can use the database.

    Args:
        connection: as the role of the sidecar.
        shown: the database, for messages.

    Raises:
        ConfigurationError: with what to run.
        psycopg.Error: the database cannot be read.
    """
    try:
        found, oldest = version(connection)
    except errors.InsufficientPrivilege:
        raise ConfigurationError(
            f"{shown} does not let this role use the receipt store; add --role with its name: {MIGRATE}"
        ) from None
    if not found:
        raise ConfigurationError(f"{shown} has no receipt store yet; {MIGRATE}")
    if found < SCHEMA_VERSION:
        raise ConfigurationError(
            f"the receipt store of {shown} has schema version {found}, this version needs {SCHEMA_VERSION}; {MIGRATE}"
        )
    if oldest > SCHEMA_VERSION:
        raise ConfigurationError(
            f"the receipt store of {shown} has schema version {found}, which this version does not know"
            f" ({SCHEMA_VERSION}); install a newer chio-frameworks"
        )
    durable, standby = connection.execute(_STATE).fetchone() or ("on", False)
    if durable == "off":
        raise ConfigurationError(
            f"synchronous_commit is off for this role in {shown}, so a crash would lose receipts that were"
            " acknowledged; run: ALTER ROLE … SET synchronous_commit = on"
        )
    _check_settings(connection, shown)
    if standby:
        raise Unavailable(f"{shown} is a standby; name the primary, or add target_session_attrs=read-write")


def _check_settings(connection: Connection, shown: str) -> None:
    if names := [name for (name,) in connection.execute(_OFF).fetchall()]:
        raise ConfigurationError(
            f"{' and '.join(names)} is off for this role in {shown}, so the database would misread statements of the"
            f" store; run: ALTER ROLE … SET {names[0]} = on"
        )


def migrate(
    connection: Connection,
    role: str,
    *,
    archive_role: str | None = None,
    erase_role: str | None = None,
    trust_role: str | None = None,
    to: int = SCHEMA_VERSION,
) -> Migrated:
    """Make or extend the tables, and give roles their rights, in one transaction; then what needs one of its own.

    Args:
        connection: as the role that owns the tables, or will.
        role: of the sidecars; it must exist, and be another one.
        archive_role: of rotations; it too.
        erase_role: of erasures; it too.
        trust_role: of the trust service; it too.
        to: the version to reach.

    Raises:
        ConfigurationError: with what to do instead.
    """
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SELECT pg_advisory_xact_lock({})").format(sql.Literal(APPENDING)))
            encoding = connection.execute("SELECT current_setting('server_encoding')").fetchone()
            if encoding != ("UTF8",):
                raise ConfigurationError("the encoding of the database is not UTF8; create another one with it")
            _check_settings(connection, "the database")
            rights = {GRANTS: role, ARCHIVE_GRANTS: archive_role, ERASE_GRANTS: erase_role, TRUST_GRANTS: trust_role}
            roles = {grants: name for grants, name in rights.items() if name is not None}
            if len(set(roles.values())) != len(roles):
                raise ConfigurationError("sidecars, rotations, erasures and the trust service need a role each")
            for name in roles.values():
                _check_role(connection, name)
            found = connection.execute("SELECT to_regclass('chio.schema_version') IS NOT NULL").fetchone()
            before = version(connection)[0] if found == (True,) else 0
            if before > to:
                raise ConfigurationError(f"the tables have version {before}, this version knows {to}; install a newer")
            for step in range(before + 1, to + 1):
                tables, oldest = STEPS[step]
                _run(connection, tables)
                connection.execute("INSERT INTO chio.schema_version (version, oldest) VALUES (%s, %s)", (step, oldest))
            _run(connection, FUNCTIONS + DECIDE)
            if not before:
                _run(connection, HORIZON)
            for grants, name in roles.items():
                connection.execute(sql.SQL(grants).format(role=sql.Identifier(name)))
            changeable = connection.execute(TOO_MUCH, {"role": role}).fetchone()
            if changeable is not None:
                raise ConfigurationError(
                    f'role "{role}" is a member of a role that may change chio.{changeable[0]}, for example of'
                    " pg_write_all_data; REVOKE that from it, or name another role for the sidecars"
                )
        with connection.transaction():
            # Appends that began with earlier functions have ended here; they do not state where they store.
            connection.execute(sql.SQL("SELECT pg_advisory_xact_lock({})").format(sql.Literal(APPENDING)))
            _run(connection, HORIZON)
        if to >= _INDEXED:
            _make_indexes(connection)
    except Error as exc:
        found_trouble = trouble(exc)
        raise ConfigurationError(f"cannot migrate: {exc if found_trouble is None else found_trouble}") from None
    return Migrated(before, to)


def _check_role(connection: Connection, role: str) -> None:
    who: tuple[Any, ...] | None = connection.execute(
        "SELECT rolsuper, pg_has_role(rolname, current_user, 'MEMBER') FROM pg_roles WHERE rolname = %s", (role,)
    ).fetchone()
    if who is None:
        raise ConfigurationError(f'there is no role "{role}"; run: CREATE ROLE "{role}" LOGIN, and give it a password')
    if any(who):
        raise ConfigurationError(
            f'role "{role}" is the one that migrates, has its rights, or is a superuser, so triggers would be its only'
            " limit; migrate as the owner of the tables, and name another one for the sidecars"
        )


def _make_indexes(connection: Connection) -> None:
    """Make the indexes that are missing; sidecars store meanwhile, which a transaction with these would forbid."""
    connection.limit(_INDEX_SECONDS)
    for name, about in INDEXES.items():
        sql_name = f"chio.{name}"
        found = connection.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (sql_name,))
        valid = found.fetchone()
        if valid == (False,):  # what a migration has left that was ended early
            _run(connection, f"DROP INDEX CONCURRENTLY {sql_name}")
        if valid != (True,):
            _run(connection, f"CREATE INDEX CONCURRENTLY {name} ON {about}")


def _run(connection: Connection, statements: str) -> None:
    # Without parameters the server takes several statements at once.
    connection.execute(statements.encode())
