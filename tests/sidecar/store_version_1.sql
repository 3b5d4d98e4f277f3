-- A receipt store as version 1 wrote it.
PRAGMA application_id=1130916207;
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE capability_invocations (
    capability_id TEXT NOT NULL,
    grant_index INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (capability_id, grant_index, ordinal)
);
INSERT INTO "capability_invocations" VALUES('cap-1',0,1,'request-1');
CREATE TABLE http_receipts (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    receipt_json TEXT NOT NULL,
    request_id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    created_at TEXT NOT NULL
);
INSERT INTO "http_receipts" VALUES(1,'receipt-1-a','{"verdict":{"verdict":"allow"},"method":"GET","number":"1","content":"a"}','request-1','a','2026-04-15T17:06:15.000000Z');
CREATE TABLE revoked_capabilities (
    capability_id TEXT NOT NULL PRIMARY KEY,
    revoked_at INTEGER NOT NULL
);
INSERT INTO "revoked_capabilities" VALUES('cap-2',1776272775);
CREATE TABLE write_probe (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    probes INTEGER NOT NULL
);
INSERT INTO "write_probe" VALUES(1,0);
CREATE VIEW receipts AS
SELECT seq, id, request_id, created_at,
       json_extract(receipt_json, '$.verdict.verdict') AS verdict_outcome,
       json_extract(receipt_json, '$.method') AS method,
       json_extract(receipt_json, '$.route_pattern') AS route_pattern,
       json_extract(receipt_json, '$.capability_id') AS capability_id,
       json_extract(receipt_json, '$.timestamp') AS timestamp
FROM http_receipts;
CREATE TRIGGER http_receipts_no_update BEFORE UPDATE ON http_receipts
BEGIN SELECT RAISE(ABORT, 'http_receipts is append-only'); END;
CREATE TRIGGER http_receipts_no_delete BEFORE DELETE ON http_receipts
BEGIN SELECT RAISE(ABORT, 'http_receipts is append-only'); END;
CREATE TRIGGER http_receipts_no_replace BEFORE INSERT ON http_receipts
WHEN EXISTS (SELECT 1 FROM http_receipts WHERE id = NEW.id OR request_id = NEW.request_id OR seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'http_receipts is append-only'); END;
CREATE TRIGGER revoked_capabilities_no_update BEFORE UPDATE ON revoked_capabilities
BEGIN SELECT RAISE(ABORT, 'revoked_capabilities is append-only'); END;
CREATE TRIGGER revoked_capabilities_no_delete BEFORE DELETE ON revoked_capabilities
BEGIN SELECT RAISE(ABORT, 'revoked_capabilities is append-only'); END;
CREATE TRIGGER revoked_capabilities_no_replace BEFORE INSERT ON revoked_capabilities
WHEN EXISTS (SELECT 1 FROM revoked_capabilities WHERE capability_id = NEW.capability_id)
BEGIN SELECT RAISE(ABORT, 'revoked_capabilities is append-only'); END;
CREATE TRIGGER capability_invocations_no_update BEFORE UPDATE ON capability_invocations
BEGIN SELECT RAISE(ABORT, 'capability_invocations is append-only'); END;
CREATE TRIGGER capability_invocations_no_delete BEFORE DELETE ON capability_invocations
BEGIN SELECT RAISE(ABORT, 'capability_invocations is append-only'); END;
CREATE TRIGGER capability_invocations_no_replace BEFORE INSERT ON capability_invocations
WHEN EXISTS (SELECT 1 FROM capability_invocations WHERE capability_id = NEW.capability_id AND grant_index = NEW.grant_index AND ordinal = NEW.ordinal)
BEGIN SELECT RAISE(ABORT, 'capability_invocations is append-only'); END;
COMMIT;
