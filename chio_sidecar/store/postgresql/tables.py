"""The tables and triggers of the PostgreSQL store; `functions` has what its roles call.

A role that owns the tables migrates; the role of the sidecars reads everything, adds budgets, uses, approvals and
revocations, and adds receipts only through `chio.append`, which `chio.spend` and `chio.decide` call. Triggers refuse
the rest, to the owner too.

A rotation (`rotate`) removes rows that a signed archive holds, as a role that can do nothing else. The triggers let go
of these alone, as those of a SQLite store do: receipts up to the base of their log, which stays behind its newest
archived row, and uses and charges before a mark of their account.

An erasure lets them go of a receipt's text alone (`rights`).
"""

from __future__ import annotations

from chio_sidecar.store.issuers import issuer_name
from chio_sidecar.store.postgresql.rights import ERASURES

SCHEMA_VERSION = 10
"""The version that this sidecar is made for. 1 knew no archives, 2 no authority, 3 no indexes for filters, 4 no history
of the keys that sign, 6 no erasures, 7 no `chio.spend`, 8 only charges in it, 9 no `chio.decide`. Lists of 5 waited for
the transactions that append."""

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

_TRIGGER = """
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON chio.{table} EXECUTE FUNCTION chio.refuse();
"""

_ARCHIVES = """
CREATE TABLE chio.receipt_archives (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id bigint NOT NULL,
    seq bigint NOT NULL,
    statement text NOT NULL
);
CREATE TABLE chio.receipt_chain_base (
    log_id bigint NOT NULL PRIMARY KEY,
    seq bigint NOT NULL,
    digest text NOT NULL
);
CREATE TABLE chio.archived_state (
    source text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    part bigint NOT NULL,
    ordinal bigint NOT NULL,
    PRIMARY KEY (source, subject, part, ordinal)
);

CREATE FUNCTION chio.archived_up_to(log bigint) RETURNS bigint STABLE LANGUAGE sql
SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(max(seq), 0) FROM chio.receipt_archives WHERE log_id = log
$$;

CREATE FUNCTION chio.base_only_on() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.log_id <> OLD.log_id OR NEW.seq <= OLD.seq)
        OR NEW.seq >= chio.archived_up_to(NEW.log_id)
        OR NOT EXISTS (
            SELECT FROM chio.http_receipts WHERE log_id = NEW.log_id AND seq = NEW.seq AND chain = NEW.digest
        )
    THEN
        RAISE EXCEPTION 'receipt_chain_base only moves on' USING ERRCODE = 'CH002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER receipt_chain_base_only_on BEFORE INSERT OR UPDATE ON chio.receipt_chain_base
FOR EACH ROW EXECUTE FUNCTION chio.base_only_on();
CREATE TRIGGER receipt_chain_base_append_only BEFORE DELETE OR TRUNCATE ON chio.receipt_chain_base
EXECUTE FUNCTION chio.refuse();

CREATE FUNCTION chio.known_as_archived() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM chio.http_receipts r WHERE r.seq <= chio.archived_up_to(r.log_id) AND r.request_id IN (
            SELECT request_id FROM chio.capability_invocations WHERE NEW.source = 'capability_invocations'
                AND capability_id = NEW.subject AND grant_index = NEW.part AND ordinal = NEW.ordinal
            UNION ALL SELECT request_id FROM chio.budget_charges WHERE NEW.source = 'budget_charges'
                AND account = NEW.subject AND ordinal = NEW.ordinal
            UNION ALL SELECT request_id FROM chio.chio_hitl_consumed_tokens
                WHERE NEW.source = 'chio_hitl_consumed_tokens' AND approval_id = NEW.subject
        )
    ) THEN
        RAISE EXCEPTION 'archived_state names no archived receipt' USING ERRCODE = 'CH002';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER archived_state_known BEFORE INSERT ON chio.archived_state
FOR EACH ROW EXECUTE FUNCTION chio.known_as_archived();

CREATE FUNCTION chio.only_archived() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    about text;
    grant_of bigint := 0;
BEGIN
    IF TG_TABLE_NAME = 'http_receipts' THEN
        IF OLD.seq <= (SELECT seq FROM chio.receipt_chain_base WHERE log_id = OLD.log_id) THEN
            RETURN OLD;
        END IF;
        RAISE EXCEPTION 'http_receipts is append-only' USING ERRCODE = 'CH002';
    END IF;
    IF TG_TABLE_NAME = 'budget_charges' THEN
        about := OLD.account;
    ELSE
        about := OLD.capability_id;
        grant_of := OLD.grant_index;
    END IF;
    IF EXISTS (
        SELECT FROM chio.archived_state
        WHERE source = TG_TABLE_NAME AND subject = about AND part = grant_of AND ordinal > OLD.ordinal
    ) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'CH002';
END $$;
"""

_ROTATED = ("http_receipts", "capability_invocations", "budget_charges")
_ROTATED_TRIGGERS = """
DROP TRIGGER {table}_append_only ON chio.{table};
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR TRUNCATE ON chio.{table} EXECUTE FUNCTION chio.refuse();
CREATE TRIGGER {table}_only_archived BEFORE DELETE ON chio.{table} FOR EACH ROW EXECUTE FUNCTION chio.only_archived();
"""
_KEPT = ("receipt_archives", "archived_state")

_AUTHORITY = """
CREATE TABLE chio.authority_trusted_keys (
    public_key_hex text COLLATE "C" NOT NULL PRIMARY KEY,
    generation bigint NOT NULL UNIQUE,
    activated_at bigint NOT NULL
);
CREATE INDEX ON chio.revoked_capabilities (revoked_at, capability_id);
"""


# From which row on which key signs a log; `chio.append` records it, so no sidecar can leave it out.
_KERNEL_KEYS = """
CREATE TABLE chio.kernel_keys (
    log_id bigint NOT NULL,
    seq bigint NOT NULL,
    kernel_key text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (log_id, seq)
);
"""

# Another text would make every evaluation fail.
AUTHORITY_KEYS = f"""
SELECT public_key_hex FROM chio.authority_trusted_keys WHERE public_key_hex ~ '^[0-9a-f]{{64}}$'
    AND NOT EXISTS (SELECT FROM chio.revoked_capabilities WHERE capability_id = '{issuer_name("")}' || public_key_hex)
ORDER BY generation
"""  # noqa: S608 - only constants
"""The public keys of the authority that were not withdrawn, oldest first."""

# The function of version 8 has fewer arguments. It must go: a sidecar of version 8 would call it, and not the new one.
_CHARGING = """
DROP FUNCTION IF EXISTS chio.spend(
    bigint, bigint, bigint, text, double precision, text[], text[], text[], text[], text[], text[], text[],
    bigint[], text, text[], bigint[], bigint[], bigint[], text[]
);
"""

TRIGGERS = (
    "logs_only_on",
    "logs_append_only",
    "receipt_chain_base_only_on",
    "receipt_chain_base_append_only",
    "archived_state_known",
    *(f"{table}_append_only" for table in (*_APPEND_ONLY, *_KEPT, "authority_trusted_keys", "kernel_keys")),
    *(f"{table}_only_archived" for table in _ROTATED),
    "http_receipts_only_erased",
)
"""The triggers of the store."""

STEPS = {
    1: (_TABLES + "".join(_TRIGGER.format(table=table) for table in _APPEND_ONLY), 1),
    2: (
        _ARCHIVES
        + "".join(_TRIGGER.format(table=table) for table in _KEPT)
        + "".join(_ROTATED_TRIGGERS.format(table=table) for table in _ROTATED),
        1,
    ),
    3: (_AUTHORITY + _TRIGGER.format(table="authority_trusted_keys"), 1),
    4: ("", 1),  # its indexes are made apart
    5: (_KERNEL_KEYS + _TRIGGER.format(table="kernel_keys"), 1),
    6: ("", 1),  # its functions are made at each migration
    7: (ERASURES, 7),  # an older check would call its digests and its erasures changes
    8: ("", 7),  # a function
    9: (_CHARGING, 7),
    10: ("", 7),  # functions
}
"""For each version: what it adds, and the oldest sidecar that works with it."""
