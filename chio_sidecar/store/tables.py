"""The tables of a SQLite store, and the triggers that protect their rows.

Plain SQL cannot change or remove a row: triggers refuse UPDATE and DELETE, and also an INSERT that would replace a row
(`INSERT OR REPLACE` deletes without running delete triggers). The state of an approval is therefore in added rows:
pending, resolved, consumed.

A rotation (`rotate`) removes rows that a signed archive holds. The triggers let go of these alone: receipts up to the
base of the chain, which stays behind the newest archived row, and uses and charges before the newest archived one of
their account, so that no account loses its count or total.

An erasure (`erase`) puts a signed record in the place of a receipt's text. The trigger lets go of this alone: text and
fingerprint of a row that has its receipt, for the record of this very row; everything else of the row stays.
"""

from __future__ import annotations

from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.hash_chain import FIRST, start_chain

SCHEMA_VERSION = 5
"""`PRAGMA user_version` of the files that this version writes. 1 knew no budgets and approvals, 2 no hash chain, 3 no
archives, 4 no erasures."""

_FIRST = """
CREATE TABLE http_receipts (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    receipt_json TEXT NOT NULL,
    request_id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE TABLE revoked_capabilities (
    capability_id TEXT NOT NULL PRIMARY KEY,
    revoked_at INTEGER NOT NULL
);
CREATE TABLE capability_invocations (
    capability_id TEXT NOT NULL,
    grant_index INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (capability_id, grant_index, ordinal)
);
CREATE TABLE write_probe (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    probes INTEGER NOT NULL
);
INSERT INTO write_probe VALUES (1, 0);
CREATE VIEW receipts AS
SELECT seq, id, request_id, created_at,
       json_extract(receipt_json, '$.verdict.verdict') AS verdict_outcome,
       json_extract(receipt_json, '$.method') AS method,
       json_extract(receipt_json, '$.route_pattern') AS route_pattern,
       json_extract(receipt_json, '$.capability_id') AS capability_id,
       json_extract(receipt_json, '$.timestamp') AS timestamp
FROM http_receipts;
"""

_SECOND = """
CREATE TABLE budget_charges (
    account TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    total INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (account, ordinal)
);
CREATE TABLE chio_hitl_pending (
    seq INTEGER PRIMARY KEY,
    approval_id TEXT NOT NULL UNIQUE,
    intent_hash TEXT NOT NULL,
    requester TEXT NOT NULL,
    request_json TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX chio_hitl_pending_by_intent ON chio_hitl_pending (intent_hash);
CREATE INDEX chio_hitl_pending_by_expiry ON chio_hitl_pending (expires_at);
CREATE TABLE chio_hitl_resolved (
    approval_id TEXT NOT NULL PRIMARY KEY,
    outcome TEXT NOT NULL CHECK (outcome IN ('approved', 'denied')),
    reason TEXT,
    approver TEXT NOT NULL,
    token_id TEXT NOT NULL UNIQUE,
    token_json TEXT NOT NULL,
    resolved_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE TABLE chio_hitl_consumed_tokens (
    approval_id TEXT NOT NULL PRIMARY KEY,
    token_id TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL,
    consumed_at INTEGER NOT NULL
);
"""

_THIRD = """
ALTER TABLE http_receipts ADD COLUMN chain TEXT;
CREATE TABLE receipt_chain_start (
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE receipt_chain_head (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE TRIGGER receipt_chain_head_no_delete BEFORE DELETE ON receipt_chain_head
BEGIN SELECT RAISE(ABORT, 'receipt_chain_head only moves on'); END;
CREATE TRIGGER receipt_chain_head_no_replace BEFORE INSERT ON receipt_chain_head
WHEN EXISTS (SELECT 1 FROM receipt_chain_head)
BEGIN SELECT RAISE(ABORT, 'receipt_chain_head only moves on'); END;
CREATE TRIGGER receipt_chain_head_no_return BEFORE UPDATE ON receipt_chain_head
WHEN NEW.seq IS NOT OLD.seq + 1
  OR NOT EXISTS (SELECT 1 FROM http_receipts WHERE seq = NEW.seq AND chain = NEW.digest)
BEGIN SELECT RAISE(ABORT, 'receipt_chain_head only moves on'); END;
CREATE TRIGGER http_receipts_chained BEFORE INSERT ON http_receipts
WHEN NEW.chain IS NULL OR NEW.seq IS NOT (SELECT seq + 1 FROM receipt_chain_head)
BEGIN SELECT RAISE(ABORT, 'http_receipts is chained'); END;
CREATE TRIGGER http_receipts_head AFTER INSERT ON http_receipts
BEGIN UPDATE receipt_chain_head SET seq = NEW.seq, digest = NEW.chain; END;
"""

_FOURTH = """
CREATE TABLE receipt_archives (
    number INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    statement TEXT NOT NULL
);
CREATE TABLE receipt_chain_base (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
CREATE TABLE archived_state (
    source TEXT NOT NULL,
    subject TEXT NOT NULL,
    part INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    PRIMARY KEY (source, subject, part, ordinal)
);
CREATE TRIGGER receipt_chain_base_no_delete BEFORE DELETE ON receipt_chain_base
BEGIN SELECT RAISE(ABORT, 'receipt_chain_base only moves on'); END;
CREATE TRIGGER receipt_chain_base_no_replace BEFORE INSERT ON receipt_chain_base
WHEN EXISTS (SELECT 1 FROM receipt_chain_base)
BEGIN SELECT RAISE(ABORT, 'receipt_chain_base only moves on'); END;
CREATE TRIGGER receipt_chain_base_no_return BEFORE UPDATE ON receipt_chain_base
WHEN NEW.seq <= OLD.seq
  OR NEW.seq >= ifnull((SELECT max(seq) FROM receipt_archives), 0)
  OR NOT EXISTS (SELECT 1 FROM http_receipts WHERE seq = NEW.seq AND ifnull(chain, NEW.digest) = NEW.digest)
BEGIN SELECT RAISE(ABORT, 'receipt_chain_base only moves on'); END;
CREATE TRIGGER archived_state_known BEFORE INSERT ON archived_state
WHEN NOT EXISTS (
    SELECT 1 FROM http_receipts
    WHERE seq < ifnull((SELECT max(seq) FROM receipt_archives), 0) AND request_id IN (
        SELECT request_id FROM capability_invocations WHERE NEW.source = 'capability_invocations'
            AND capability_id = NEW.subject AND grant_index = NEW.part AND ordinal = NEW.ordinal
        UNION ALL SELECT request_id FROM budget_charges WHERE NEW.source = 'budget_charges'
            AND account = NEW.subject AND ordinal = NEW.ordinal
        UNION ALL SELECT request_id FROM chio_hitl_consumed_tokens WHERE NEW.source = 'chio_hitl_consumed_tokens'
            AND approval_id = NEW.subject
    )
)
BEGIN SELECT RAISE(ABORT, 'archived_state names no archived receipt'); END;
DROP TRIGGER http_receipts_no_delete;
CREATE TRIGGER http_receipts_no_delete BEFORE DELETE ON http_receipts
WHEN OLD.seq > ifnull((SELECT seq FROM receipt_chain_base), 0)
BEGIN SELECT RAISE(ABORT, 'http_receipts is append-only'); END;
DROP TRIGGER capability_invocations_no_delete;
CREATE TRIGGER capability_invocations_no_delete BEFORE DELETE ON capability_invocations
WHEN NOT EXISTS (SELECT 1 FROM archived_state WHERE source = 'capability_invocations'
    AND subject = OLD.capability_id AND part = OLD.grant_index AND ordinal > OLD.ordinal)
BEGIN SELECT RAISE(ABORT, 'capability_invocations is append-only'); END;
DROP TRIGGER budget_charges_no_delete;
CREATE TRIGGER budget_charges_no_delete BEFORE DELETE ON budget_charges
WHEN NOT EXISTS (SELECT 1 FROM archived_state WHERE source = 'budget_charges'
    AND subject = OLD.account AND part = 0 AND ordinal > OLD.ordinal)
BEGIN SELECT RAISE(ABORT, 'budget_charges is append-only'); END;
"""

# A value that is NULL makes the whole condition NULL, which refuses.
_FIFTH = """
DROP TRIGGER http_receipts_no_update;
CREATE TRIGGER http_receipts_no_update BEFORE UPDATE ON http_receipts
WHEN ifnull(
    NEW.seq = OLD.seq AND NEW.id = OLD.id AND NEW.request_id = OLD.request_id AND NEW.created_at = OLD.created_at
    AND NEW.chain IS OLD.chain AND NEW.fingerprint = ''
    AND OLD.receipt_json NOT GLOB '{"format":"chio-receipt-erasure/*'
    AND NEW.receipt_json GLOB '{"format":"chio-receipt-erasure/*' AND json_valid(NEW.receipt_json)
    AND json_extract(NEW.receipt_json, '$.id') = OLD.id AND json_extract(NEW.receipt_json, '$.row') = OLD.seq
    AND json_extract(NEW.receipt_json, '$.digest') = ifnull(OLD.chain, json_extract(NEW.receipt_json, '$.digest')),
FALSE) IS NOT TRUE
BEGIN SELECT RAISE(ABORT, 'http_receipts is append-only'); END;
"""

# For each append-only table: the condition for rows that a new row would replace.
_FIRST_KEEPS = {
    "http_receipts": "id = NEW.id OR request_id = NEW.request_id OR seq = NEW.seq",
    "revoked_capabilities": "capability_id = NEW.capability_id",
    "capability_invocations": (
        "capability_id = NEW.capability_id AND grant_index = NEW.grant_index AND ordinal = NEW.ordinal"
    ),
}
_SECOND_KEEPS = {
    "budget_charges": "account = NEW.account AND ordinal = NEW.ordinal",
    "chio_hitl_pending": "approval_id = NEW.approval_id OR seq = NEW.seq",
    "chio_hitl_resolved": "approval_id = NEW.approval_id OR token_id = NEW.token_id",
    "chio_hitl_consumed_tokens": "approval_id = NEW.approval_id OR token_id = NEW.token_id",
}
_THIRD_KEEPS = {"receipt_chain_start": "TRUE"}
_FOURTH_KEEPS = {
    "receipt_archives": "number = NEW.number",
    "archived_state": ("source = NEW.source AND subject = NEW.subject AND part = NEW.part AND ordinal = NEW.ordinal"),
}

_APPEND_ONLY = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""


_KEEPS: dict[int, dict[str, str]] = {1: _FIRST_KEEPS, 2: _SECOND_KEEPS, 3: _THIRD_KEEPS, 4: _FOURTH_KEEPS, 5: {}}
_STEPS = {
    step: tables + "".join(_APPEND_ONLY.format(table=table, same=same) for table, same in _KEEPS[step].items())
    for step, tables in ((1, _FIRST), (2, _SECOND), (3, _THIRD), (4, _FOURTH), (5, _FIFTH))
}
CHAINED = 3
"""The first version with a chain."""

ARCHIVED = 4
"""The first version that can be rotated."""

ERASABLE = 5
"""The first version of which receipts can be erased."""

_OTHER_OBJECTS = {
    1: {"receipts", "write_probe"},
    2: set(),
    3: {
        "receipt_chain_head",
        "http_receipts_chained",
        "http_receipts_head",
        "receipt_chain_head_no_delete",
        "receipt_chain_head_no_replace",
        "receipt_chain_head_no_return",
    },
    4: {
        "receipt_chain_base",
        "receipt_chain_base_no_delete",
        "receipt_chain_base_no_replace",
        "receipt_chain_base_no_return",
        "archived_state_known",
    },
    5: set(),
}


def objects(version: int) -> frozenset[str]:
    """Return the names of the tables, views and triggers that a file of this schema version has."""
    names: set[str] = set()
    for step in range(1, version + 1):
        names |= {*_KEEPS[step], *_OTHER_OBJECTS[step]}
        names |= {f"{table}_no_{change}" for table in _KEEPS[step] for change in ("update", "delete", "replace")}
    return frozenset(names)


def upgrade(connection: sqlite3.Connection, version: int, *, to: int = SCHEMA_VERSION) -> None:
    """Change a file of schema version `version` (0: empty) to version `to`, inside the open transaction.

    Raises:
        sqlite3.Error: the file cannot be written, or has damaged rows; the transaction must be undone.
    """
    for step in range(version + 1, to + 1):
        # Not `executescript`, which commits first: a crash must not leave a half-created file.
        statement = ""
        for line in _STEPS[step].splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                connection.execute(statement)
                statement = ""
        if step == CHAINED:
            start_chain(connection)
        if step == ARCHIVED:
            connection.execute("INSERT INTO receipt_chain_base VALUES (1, 0, ?)", (FIRST,))
    connection.execute(f"PRAGMA user_version={to:d}")
