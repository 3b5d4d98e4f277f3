-- A receipt store as version 4 wrote it.
PRAGMA application_id=1130916207;
PRAGMA user_version=4;
BEGIN TRANSACTION;
CREATE TABLE archived_state (
    source TEXT NOT NULL,
    subject TEXT NOT NULL,
    part INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    PRIMARY KEY (source, subject, part, ordinal)
);
CREATE TABLE budget_charges (
    account TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    cost INTEGER NOT NULL,
    total INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (account, ordinal)
);
INSERT INTO "budget_charges" VALUES('dbc7480d0b31acb3e0d983c41ca8c5c1e4f136269bf0b0e56a6d4325fe1fdeb6',1,2,2,'req-spent');
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
INSERT INTO "http_receipts" VALUES(1,'01KP91Q5TRNRV3QZ12XYW4Y4W1','{"id":"01KP91Q5TRNRV3QZ12XYW4Y4W1","request_id":"plain-0","route_pattern":"/pets/0","method":"GET","caller_identity_hash":"5a45e80d1ab1a73e8c2644f3f6c6e53974d0a986c2fc86692372d3f130248c9c","verdict":{"verdict":"allow"},"evidence":[{"guard_name":"DefaultPolicyGuard","verdict":true,"details":"safe method, session-scoped allow"}],"response_status":200,"timestamp":1776272775,"content_hash":"bad35c48a17ae7e74b4a83232448e0fd09f1e27cb7e385ce6fc20027742be57d","policy_hash":"54d58e525dfa5626293cc3f9d744bdde548e08eb597583f9ec7ae417b8723895","metadata":{"chio_http_status_scope":"decision","chio_kernel_receipt_id":"rcpt-019d921b-9758-7e36-bbfc-22efb84f1381","route_selection":{"routeSelectionId":"ef7c63d8f05dc895eccef1333a410a852057106372fe290284273376f2e37d67","decision":"select","sourceProtocol":"http","requestedTargetProtocol":"native","selectedRouteId":"native-route","selectedTargetProtocol":"native","selectedProtocols":["http","native"],"candidates":[{"routeId":"native-route","targetProtocol":"native","selectedProtocols":["http","native"],"available":true}]}},"kernel_key":"884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b","signature":"9f1ab4cd3f4f4d77264bd994269e9e29fc57901bd7c6d3ba43890354fac6b5a7bdd69d0d224c657ac9a352efd754eb6162ad8758d1e466a2b1e5bf25ae749508"}','plain-0','a86756d8a7ee47c6fccf0a53fd32bd3600f19dddfb1e959be20883cf208343f0','2026-04-15T17:06:15.000000Z','6ab40276e2e0b382cd9f2153268239685e430aa2b01f95ab1c3289ea592ee98f');
INSERT INTO "http_receipts" VALUES(2,'01KP91Q5TRNRV3QZ12XYW4Y4W2','{"id":"01KP91Q5TRNRV3QZ12XYW4Y4W2","request_id":"plain-1","route_pattern":"/pets/1","method":"GET","caller_identity_hash":"5a45e80d1ab1a73e8c2644f3f6c6e53974d0a986c2fc86692372d3f130248c9c","verdict":{"verdict":"allow"},"evidence":[{"guard_name":"DefaultPolicyGuard","verdict":true,"details":"safe method, session-scoped allow"}],"response_status":200,"timestamp":1776272775,"content_hash":"c9a7a981cac3ab2e486b26920423c2628b7a7e1736d3190e9be28501bb8be1c2","policy_hash":"54d58e525dfa5626293cc3f9d744bdde548e08eb597583f9ec7ae417b8723895","metadata":{"chio_http_status_scope":"decision","chio_kernel_receipt_id":"rcpt-019d921b-9758-7e36-bbfc-22efb84f1382","route_selection":{"routeSelectionId":"a4b11d730338ac3cfdb3c31bc80a02c7c4f0587f40b70383e63be64541af3cc7","decision":"select","sourceProtocol":"http","requestedTargetProtocol":"native","selectedRouteId":"native-route","selectedTargetProtocol":"native","selectedProtocols":["http","native"],"candidates":[{"routeId":"native-route","targetProtocol":"native","selectedProtocols":["http","native"],"available":true}]}},"kernel_key":"884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b","signature":"a89a3b8a809ee3265e89a5e629ff09b810c08695cab6657a2d16af4f3fde3562af088e5f24c816e0698e76abfb0b81f1ea0da6f950981fa0bed5ebddc9c03104"}','plain-1','99f33ffa1583b436e4ba12803b3e13e85aca286398eebbada8b54da5dd48f94f','2026-04-15T17:06:15.000000Z','d9ee6db41dcb949efd7d636aacc833af561e3556dcb0fb75074447452161619d');
INSERT INTO "http_receipts" VALUES(3,'01KP91Q5TRX71NZDMM3VBVT0WG','{"id":"01KP91Q5TRX71NZDMM3VBVT0WG","request_id":"req-spent","route_pattern":"/pay/7","method":"POST","caller_identity_hash":"5a45e80d1ab1a73e8c2644f3f6c6e53974d0a986c2fc86692372d3f130248c9c","verdict":{"verdict":"allow"},"evidence":[{"guard_name":"CapabilityGuard","verdict":true,"details":"valid capability token presented"},{"guard_name":"BudgetGuard","verdict":true,"details":"cost 2 USD within invocations 9: charged"}],"response_status":200,"timestamp":1776272775,"content_hash":"5a1586dc348c3b2b4a66dab5724afd803561f1560db7cfdeca691413dc32947d","policy_hash":"54d58e525dfa5626293cc3f9d744bdde548e08eb597583f9ec7ae417b8723895","capability_id":"cap-1","metadata":{"chio_http_status_scope":"decision","chio_kernel_receipt_id":"rcpt-019d921b-9758-79c3-9fb6-941ed7bd0390","route_selection":{"routeSelectionId":"16298b8944ba1abcae1a6a73ba770049ba3ddb5a9add0cf148f590fd2b54f538","decision":"select","sourceProtocol":"http","requestedTargetProtocol":"native","selectedRouteId":"native-route","selectedTargetProtocol":"native","selectedProtocols":["http","native"],"candidates":[{"routeId":"native-route","targetProtocol":"native","selectedProtocols":["http","native"],"available":true}]}},"kernel_key":"884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b","signature":"e9363847bab0c24a7b0248d34c614c325eb7871f437073de2728ec95f3e8a734132929013fe080130f9bfdedfce2d2d1328b7fca15991e476e664bf358a4b202"}','req-spent','c2e0e5e629f49113804ea3c0863f144a734033a9079511f6b081a2dad2852bba','2026-04-15T17:06:15.000000Z','821f97cc71f80dedaa7605df3c7c2965798e5020d730dbb917ae689573dd582d');
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
INSERT INTO "receipt_chain_base" VALUES(1,0,'63a504267ea9a5201652132e3d8ee0c80f4c96d7aa469367ddde0ba6581db258');
CREATE TABLE receipt_chain_head (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
INSERT INTO "receipt_chain_head" VALUES(1,3,'821f97cc71f80dedaa7605df3c7c2965798e5020d730dbb917ae689573dd582d');
CREATE TABLE receipt_chain_start (
    seq INTEGER NOT NULL,
    digest TEXT NOT NULL
);
INSERT INTO "receipt_chain_start" VALUES(0,'63a504267ea9a5201652132e3d8ee0c80f4c96d7aa469367ddde0ba6581db258');
CREATE TABLE revoked_capabilities (
    capability_id TEXT NOT NULL PRIMARY KEY,
    revoked_at INTEGER NOT NULL
);
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
CREATE TRIGGER capability_invocations_no_replace BEFORE INSERT ON capability_invocations
WHEN EXISTS (SELECT 1 FROM capability_invocations WHERE capability_id = NEW.capability_id AND grant_index = NEW.grant_index AND ordinal = NEW.ordinal)
BEGIN SELECT RAISE(ABORT, 'capability_invocations is append-only'); END;
CREATE INDEX chio_hitl_pending_by_intent ON chio_hitl_pending (intent_hash);
CREATE INDEX chio_hitl_pending_by_expiry ON chio_hitl_pending (expires_at);
CREATE TRIGGER budget_charges_no_update BEFORE UPDATE ON budget_charges
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
CREATE TRIGGER http_receipts_no_delete BEFORE DELETE ON http_receipts
WHEN OLD.seq > ifnull((SELECT seq FROM receipt_chain_base), 0)
BEGIN SELECT RAISE(ABORT, 'http_receipts is append-only'); END;
CREATE TRIGGER capability_invocations_no_delete BEFORE DELETE ON capability_invocations
WHEN NOT EXISTS (SELECT 1 FROM archived_state WHERE source = 'capability_invocations'
    AND subject = OLD.capability_id AND part = OLD.grant_index AND ordinal > OLD.ordinal)
BEGIN SELECT RAISE(ABORT, 'capability_invocations is append-only'); END;
CREATE TRIGGER budget_charges_no_delete BEFORE DELETE ON budget_charges
WHEN NOT EXISTS (SELECT 1 FROM archived_state WHERE source = 'budget_charges'
    AND subject = OLD.account AND part = 0 AND ordinal > OLD.ordinal)
BEGIN SELECT RAISE(ABORT, 'budget_charges is append-only'); END;
CREATE TRIGGER receipt_archives_no_update BEFORE UPDATE ON receipt_archives
BEGIN SELECT RAISE(ABORT, 'receipt_archives is append-only'); END;
CREATE TRIGGER receipt_archives_no_delete BEFORE DELETE ON receipt_archives
BEGIN SELECT RAISE(ABORT, 'receipt_archives is append-only'); END;
CREATE TRIGGER receipt_archives_no_replace BEFORE INSERT ON receipt_archives
WHEN EXISTS (SELECT 1 FROM receipt_archives WHERE number = NEW.number)
BEGIN SELECT RAISE(ABORT, 'receipt_archives is append-only'); END;
CREATE TRIGGER archived_state_no_update BEFORE UPDATE ON archived_state
BEGIN SELECT RAISE(ABORT, 'archived_state is append-only'); END;
CREATE TRIGGER archived_state_no_delete BEFORE DELETE ON archived_state
BEGIN SELECT RAISE(ABORT, 'archived_state is append-only'); END;
CREATE TRIGGER archived_state_no_replace BEFORE INSERT ON archived_state
WHEN EXISTS (SELECT 1 FROM archived_state WHERE source = NEW.source AND subject = NEW.subject AND part = NEW.part AND ordinal = NEW.ordinal)
BEGIN SELECT RAISE(ABORT, 'archived_state is append-only'); END;
COMMIT;
