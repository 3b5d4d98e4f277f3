"""The tables of the PostgreSQL store, and the rights of a sidecar.

A role that owns the tables migrates; the role of the sidecars reads everything, adds budgets, uses, approvals and
revocations, and adds receipts only through `chio.append`. Triggers refuse the rest, to the owner too.

A newer schema may serve older sidecars: each version states the oldest one that still works with it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from psycopg import Error, errors, sql

from chio_core.errors import ConfigurationError
from chio_sidecar.store.hash_chain import FIRST
from chio_sidecar.store.postgresql.connection import Connection, trouble

SCHEMA_VERSION = 1
"""The version that this sidecar is made for."""

APPENDING = 0x6368696F
"""Key of the advisory lock of everything that appends: shared in appends, exclusive in a revocation and for the horizon
of a listing. So a revocation precedes every later receipt, and no row appears behind a cursor."""

MIGRATE = "run: chio-sidecar store migrate --receipt-store URL, as the role that owns the tables"

_APPEND_ONLY = (
    "http_receipts",
    "revoked_capabilities",
    "capability_invocations",
    "budget_charges",
    "chio_hitl_pending",
    "chio_hitl_resolved",
    "chio_hitl_consumed_tokens",
)

_TABLES = """
CREATE SCHEMA chio;
CREATE TABLE chio.schema_version (
    version integer NOT NULL,
    oldest integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE chio.logs (
    log_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch bigint NOT NULL,
    holder text NOT NULL,
    leased_until timestamptz NOT NULL,
    seq bigint NOT NULL,
    digest text NOT NULL
);
CREATE TABLE chio.http_receipts (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id bigint NOT NULL,
    seq bigint NOT NULL,
    id text COLLATE "C" NOT NULL UNIQUE,
    receipt_json text NOT NULL,
    request_id text COLLATE "C" NOT NULL UNIQUE,
    fingerprint text NOT NULL,
    created_at text NOT NULL,
    chain text NOT NULL,
    UNIQUE (log_id, seq)
);
CREATE TABLE chio.revoked_capabilities (
    capability_id text COLLATE "C" NOT NULL PRIMARY KEY,
    revoked_at bigint NOT NULL
);
CREATE TABLE chio.capability_invocations (
    capability_id text COLLATE "C" NOT NULL,
    grant_index bigint NOT NULL,
    ordinal bigint NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (capability_id, grant_index, ordinal)
);
CREATE TABLE chio.budget_charges (
    account text COLLATE "C" NOT NULL,
    ordinal bigint NOT NULL,
    cost bigint NOT NULL,
    total bigint NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (account, ordinal)
);
CREATE TABLE chio.chio_hitl_pending (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    approval_id text COLLATE "C" NOT NULL UNIQUE,
    intent_hash text COLLATE "C" NOT NULL,
    requester text NOT NULL,
    request_json text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX ON chio.chio_hitl_pending (intent_hash);
CREATE INDEX ON chio.chio_hitl_pending (expires_at);
CREATE TABLE chio.chio_hitl_resolved (
    approval_id text COLLATE "C" NOT NULL PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('approved', 'denied')),
    reason text,
    approver text NOT NULL,
    token_id text COLLATE "C" NOT NULL UNIQUE,
    token_json text NOT NULL,
    resolved_at bigint NOT NULL,
    expires_at bigint NOT NULL
);
CREATE TABLE chio.chio_hitl_consumed_tokens (
    approval_id text COLLATE "C" NOT NULL PRIMARY KEY,
    token_id text COLLATE "C" NOT NULL UNIQUE,
    request_id text COLLATE "C" NOT NULL,
    consumed_at bigint NOT NULL
);

CREATE FUNCTION chio.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'CH002';
END $$;

CREATE FUNCTION chio.only_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.log_id <> OLD.log_id OR NEW.seq < OLD.seq OR NEW.epoch < OLD.epoch THEN
        RAISE EXCEPTION 'a log only moves on' USING ERRCODE = 'CH002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER logs_only_on BEFORE UPDATE ON chio.logs FOR EACH ROW EXECUTE FUNCTION chio.only_on();
CREATE TRIGGER logs_append_only BEFORE DELETE OR TRUNCATE ON chio.logs EXECUTE FUNCTION chio.refuse();
"""

_FUNCTIONS = f"""
CREATE OR REPLACE FUNCTION chio.claim(wanted bigint, wanted_epoch bigint, who text, seconds double precision)
RETURNS chio.logs LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found chio.logs;
BEGIN
    SELECT * INTO found FROM chio.logs l WHERE l.log_id = wanted AND l.epoch = wanted_epoch FOR UPDATE;
    IF found.log_id IS NULL THEN
        SELECT * INTO found FROM chio.logs l WHERE l.leased_until < clock_timestamp()
        ORDER BY l.log_id LIMIT 1 FOR UPDATE SKIP LOCKED;
        found.epoch := found.epoch + 1;
    END IF;
    IF found.log_id IS NULL THEN
        INSERT INTO chio.logs (epoch, holder, leased_until, seq, digest)
        VALUES (1, who, clock_timestamp() + seconds * interval '1 second', 0, '{FIRST}') RETURNING * INTO found;
    ELSE
        UPDATE chio.logs l SET epoch = found.epoch, holder = who,
            leased_until = clock_timestamp() + seconds * interval '1 second'
        WHERE l.log_id = found.log_id RETURNING * INTO found;
    END IF;
    RETURN found;
END $$;

CREATE OR REPLACE FUNCTION chio.renew(own bigint, own_epoch bigint, seconds double precision)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE chio.logs SET leased_until = clock_timestamp() + seconds * interval '1 second'
    WHERE log_id = own AND epoch = own_epoch;
    RETURN FOUND;
END $$;

CREATE OR REPLACE FUNCTION chio.append(
    own bigint, own_epoch bigint, last bigint, last_digest text, seconds double precision, unless text[],
    ids text[], jsons text[], requests text[], prints text[], times text[], digests text[]
) RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head chio.logs;
    stored bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({APPENDING});
    SELECT * INTO head FROM chio.logs WHERE log_id = own FOR UPDATE;
    IF head.epoch IS DISTINCT FROM own_epoch OR head.seq <> last OR head.digest <> last_digest THEN
        RETURN 'moved';
    END IF;
    IF EXISTS (SELECT FROM chio.revoked_capabilities WHERE capability_id = ANY (unless)) THEN
        RETURN 'revoked';
    END IF;
    BEGIN
        INSERT INTO chio.http_receipts (log_id, seq, id, receipt_json, request_id, fingerprint, created_at, chain)
        SELECT own, last + n, id, receipt_json, request_id, fingerprint, created_at, digest
        FROM unnest(ids, jsons, requests, prints, times, digests) WITH ORDINALITY
            AS r (id, receipt_json, request_id, fingerprint, created_at, digest, n)
        ORDER BY n ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS stored = ROW_COUNT;
        IF stored <> cardinality(ids) THEN
            RAISE EXCEPTION USING ERRCODE = 'CH001';
        END IF;
    EXCEPTION WHEN SQLSTATE 'CH001' THEN
        RETURN 'taken';
    END;
    UPDATE chio.logs SET seq = last + stored, digest = digests[stored],
        leased_until = clock_timestamp() + seconds * interval '1 second'
    WHERE log_id = own;
    RETURN 'stored';
END $$;

CREATE OR REPLACE FUNCTION chio.horizon() RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock({APPENDING});
    RETURN (SELECT coalesce(max(position), 0) FROM chio.http_receipts);
END $$;
"""  # noqa: S608 - only constants

_TRIGGER = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON chio.{table} EXECUTE FUNCTION chio.refuse();
"""

TRIGGERS = ("logs_only_on", "logs_append_only", *(f"{table}_append_only" for table in _APPEND_ONLY))
"""The triggers of the store."""

# For each version: what it adds, and the oldest sidecar that works with it.
_STEPS = {1: (_TABLES + "".join(_TRIGGER.format(table=table) for table in _APPEND_ONLY), 1)}

_GRANTS = """
REVOKE ALL ON SCHEMA chio FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chio FROM PUBLIC;
GRANT USAGE ON SCHEMA chio TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA chio TO {role};
GRANT SELECT ON ALL SEQUENCES IN SCHEMA chio TO {role};
GRANT INSERT ON chio.revoked_capabilities, chio.capability_invocations, chio.budget_charges, chio.chio_hitl_pending,
    chio.chio_hitl_resolved, chio.chio_hitl_consumed_tokens TO {role};
GRANT EXECUTE ON FUNCTION chio.claim, chio.renew, chio.append, chio.horizon TO {role};
"""

_VERSION = "SELECT version, oldest FROM chio.schema_version ORDER BY version DESC LIMIT 1"
_LOGS = "SELECT log_id, seq, digest, holder, leased_until > clock_timestamp() FROM chio.logs ORDER BY log_id"
_STATE = "SELECT current_setting('synchronous_commit'), pg_is_in_recovery(), current_setting('server_encoding')"


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
        rows: number of its receipts.
        head: digest of the newest one, for an auditor to keep.
        holder: host and process that claimed it last.
        is_held: the claim has not ended.
    """

    number: int
    rows: int
    head: str
    holder: str
    is_held: bool


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
    durable, standby, _ = connection.execute(_STATE).fetchone() or ("on", False, "")
    if durable == "off":
        raise ConfigurationError(
            f"synchronous_commit is off for this role in {shown}, so a crash would lose receipts that were"
            " acknowledged; run: ALTER ROLE … SET synchronous_commit = on"
        )
    if standby:
        raise ConfigurationError(f"{shown} is a standby; name the primary, or add target_session_attrs=read-write")


def migrate(connection: Connection, role: str, *, to: int = SCHEMA_VERSION) -> Migrated:
    """Make or extend the tables, and give a role the rights of a sidecar, in one transaction.

    Args:
        connection: as the role that owns the tables, or will.
        role: of the sidecars; it must exist, and be another one.
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
            _check_role(connection, role)
            found = connection.execute("SELECT to_regclass('chio.schema_version') IS NOT NULL").fetchone()
            before = version(connection)[0] if found == (True,) else 0
            if before > to:
                raise ConfigurationError(f"the tables have version {before}, this version knows {to}; install a newer")
            for step in range(before + 1, to + 1):
                tables, oldest = _STEPS[step]
                _run(connection, tables)
                connection.execute("INSERT INTO chio.schema_version (version, oldest) VALUES (%s, %s)", (step, oldest))
            _run(connection, _FUNCTIONS)
            connection.execute(sql.SQL(_GRANTS).format(role=sql.Identifier(role)))
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


def _run(connection: Connection, statements: str) -> None:
    # Without parameters the server takes several statements at once.
    connection.execute(statements.encode())
