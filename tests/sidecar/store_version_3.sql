-- A receipt store as version 3 wrote it.
PRAGMA application_id=1130916207;
PRAGMA user_version=3;
BEGIN TRANSACTION;
CREATE TABLE budget_charges (
    account TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    total INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (account, ordinal)
);
INSERT INTO "budget_charges" VALUES('account-1',1,5,5,'request-00002');
CREATE TABLE capability_invocations (
    capability_id TEXT NOT NULL,
    grant_index INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (capability_id, grant_index, ordinal)
);
CREATE TABLE chio_hitl_consumed_tokens (
    approval_id TEXT NOT NULL PRIMARY KEY,
    token_id TEXT NOT NULL UNIQUE,
    request_id TEXT NOT NULL,
    consumed_at INTEGER NOT NULL
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
CREATE TABLE http_receipts (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    receipt_json TEXT NOT NULL,
    request_id TEXT NOT NULL UNIQUE,
    fingerprint TEXT NOT NULL,
    created_at TEXT NOT NULL
, chain TEXT);
INSERT INTO "http_receipts" VALUES(1,'receipt-00001','{"id":"receipt-00001","request_id":"request-00001","route_pattern":"/things/1","method":"POST","caller_identity_hash":"6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b","verdict":{"verdict":"allow"},"evidence":[{"guard_name":"DefaultPolicyGuard","verdict":true,"details":"nothing against it"}],"response_status":200,"timestamp":1776272776,"content_hash":"ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73","policy_hash":"823412d1eacb67956220e532959f0104603057c88704863ca38e7cd188fda812","metadata":{"chio_http_status_scope":"decision"},"kernel_key":"884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b","signature":"2676ceb6e9b9c1c4322759c3d1eedde2c68482b386bfbab56b84788e3f8fe9d6b26cee356c9fb16ffc9f933b9d2a2d9fc51713299969869be9b1fb9499eea50b"}','request-00001','f','2026-04-15T17:06:15.000000Z',NULL);
INSERT INTO "http_receipts" VALUES(2,'receipt-00002','{"id":"receipt-00002","request_id":"request-00002","route_pattern":"/things/2","method":"GET","caller_identity_hash":"d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35","verdict":{"verdict":"allow"},"evidence":[{"guard_name":"DefaultPolicyGuard","verdict":true,"details":"nothing against it"}],"response_status":200,"timestamp":1776272777,"content_hash":"ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73","policy_hash":"823412d1eacb67956220e532959f0104603057c88704863ca38e7cd188fda812","metadata":{"chio_http_status_scope":"decision"},"kernel_key":"884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b","signature":"c58349b19c4989226af231571462c97848f807193150b5cebfe5ea3652a8aecb168510c6559303dead8c087524f20fc89f4a957df1fe4fb511e3da7166fde309"}','request-00002','f','2026-04-15T17:06:15.000000Z',NULL);
INSERT INTO "http_receipts" VALUES(3,'receipt-00003','{"id":"receipt-00003","request_id":"request-00003","route_pattern":"/things/3","method":"POST","caller_identity_hash":"4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce","verdict":{"verdict":"allow"},"evidence":[{"guard_name":"DefaultPolicyGuard","verdict":true,"details":"nothing against it"}],"response_status":200,"timestamp":1776272778,"content_hash":"ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73","policy_hash":"823412d1eacb67956220e532959f0104603057c88704863ca38e7cd188fda812","metadata":{"chio_http_status_scope":"decision"},"kernel_key":"884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b","signature":"820d935cad601a435a26ea289b96562d7c4655e5ed9d47ff124411c5f3ffeb989a4b0f42e85f51a87beb1a3c82dea6349d315a4de3e61d9b2cb9e414c5b64801"}','request-00003','f','2026-04-15T17:06:15.000000Z',NULL);
CREATE TABLE receipt_chain_head (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
INSERT INTO "receipt_chain_head" VALUES(1,3,'f7f9f066dd090e4d41ee4989f909f4153bb89f07b856d9f80d6b4da9c175ec55');
CREATE TABLE receipt_chain_start (
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
INSERT INTO "receipt_chain_start" VALUES(3,'f7f9f066dd090e4d41ee4989f909f4153bb89f07b856d9f80d6b4da9c175ec55');
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
CREATE INDEX chio_hitl_pending_by_intent ON chio_hitl_pending (intent_hash);
CREATE INDEX chio_hitl_pending_by_expiry ON chio_hitl_pending (expires_at);
CREATE TRIGGER budget_charges_no_update BEFORE UPDATE ON budget_charges
BEGIN SELECT RAISE(ABORT, 'budget_charges is append-only'); END;
CREATE TRIGGER budget_charges_no_delete BEFORE DELETE ON budget_charges
BEGIN SELECT RAISE(ABORT, 'budget_charges is append-only'); END;
CREATE TRIGGER budget_charges_no_replace BEFORE INSERT ON budget_charges
WHEN EXISTS (SELECT 1 FROM budget_charges WHERE account = NEW.account AND ordinal = NEW.ordinal)
BEGIN SELECT RAISE(ABORT, 'budget_charges is append-only'); END;
CREATE TRIGGER chio_hitl_pending_no_update BEFORE UPDATE ON chio_hitl_pending
BEGIN SELECT RAISE(ABORT, 'chio_hitl_pending is append-only'); END;
CREATE TRIGGER chio_hitl_pending_no_delete BEFORE DELETE ON chio_hitl_pending
BEGIN SELECT RAISE(ABORT, 'chio_hitl_pending is append-only'); END;
CREATE TRIGGER chio_hitl_pending_no_replace BEFORE INSERT ON chio_hitl_pending
WHEN EXISTS (SELECT 1 FROM chio_hitl_pending WHERE approval_id = NEW.approval_id OR seq = NEW.seq)
BEGIN SELECT RAISE(ABORT, 'chio_hitl_pending is append-only'); END;
CREATE TRIGGER chio_hitl_resolved_no_update BEFORE UPDATE ON chio_hitl_resolved
BEGIN SELECT RAISE(ABORT, 'chio_hitl_resolved is append-only'); END;
CREATE TRIGGER chio_hitl_resolved_no_delete BEFORE DELETE ON chio_hitl_resolved
BEGIN SELECT RAISE(ABORT, 'chio_hitl_resolved is append-only'); END;
CREATE TRIGGER chio_hitl_resolved_no_replace BEFORE INSERT ON chio_hitl_resolved
WHEN EXISTS (SELECT 1 FROM chio_hitl_resolved WHERE approval_id = NEW.approval_id OR token_id = NEW.token_id)
BEGIN SELECT RAISE(ABORT, 'chio_hitl_resolved is append-only'); END;
CREATE TRIGGER chio_hitl_consumed_tokens_no_update BEFORE UPDATE ON chio_hitl_consumed_tokens
BEGIN SELECT RAISE(ABORT, 'chio_hitl_consumed_tokens is append-only'); END;
CREATE TRIGGER chio_hitl_consumed_tokens_no_delete BEFORE DELETE ON chio_hitl_consumed_tokens
BEGIN SELECT RAISE(ABORT, 'chio_hitl_consumed_tokens is append-only'); END;
CREATE TRIGGER chio_hitl_consumed_tokens_no_replace BEFORE INSERT ON chio_hitl_consumed_tokens
WHEN EXISTS (SELECT 1 FROM chio_hitl_consumed_tokens WHERE approval_id = NEW.approval_id OR token_id = NEW.token_id)
BEGIN SELECT RAISE(ABORT, 'chio_hitl_consumed_tokens is append-only'); END;
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
CREATE TRIGGER receipt_chain_start_no_update BEFORE UPDATE ON receipt_chain_start
BEGIN SELECT RAISE(ABORT, 'receipt_chain_start is append-only'); END;
CREATE TRIGGER receipt_chain_start_no_delete BEFORE DELETE ON receipt_chain_start
BEGIN SELECT RAISE(ABORT, 'receipt_chain_start is append-only'); END;
CREATE TRIGGER receipt_chain_start_no_replace BEFORE INSERT ON receipt_chain_start
WHEN EXISTS (SELECT 1 FROM receipt_chain_start WHERE TRUE)
BEGIN SELECT RAISE(ABORT, 'receipt_chain_start is append-only'); END;
COMMIT;
