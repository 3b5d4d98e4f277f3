"""The rights of each role in the database, and the trigger that limits those of an erasure."""

from __future__ import annotations

# Default privileges of the owner may have given more to the role, or to all.
_ONLY = """
REVOKE ALL ON SCHEMA chio, chio_trust FROM PUBLIC, {role};
REVOKE ALL ON ALL TABLES IN SCHEMA chio, chio_trust FROM PUBLIC, {role};
REVOKE ALL ON ALL SEQUENCES IN SCHEMA chio, chio_trust FROM PUBLIC, {role};
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chio, chio_trust FROM PUBLIC, {role};
"""

GRANTS = f"""{_ONLY}
GRANT USAGE ON SCHEMA chio TO {{role}};
GRANT SELECT ON ALL TABLES IN SCHEMA chio TO {{role}};
GRANT SELECT ON ALL SEQUENCES IN SCHEMA chio TO {{role}};
GRANT INSERT ON chio.revoked_capabilities, chio.capability_invocations, chio.budget_charges, chio.chio_hitl_pending,
    chio.chio_hitl_resolved, chio.chio_hitl_consumed_tokens TO {{role}};
GRANT EXECUTE ON FUNCTION chio.claim, chio.renew, chio.append, chio.spend, chio.decide, chio.obstacle, chio.record,
    chio.horizon, chio.fact TO {{role}};
"""
"""The rights of a sidecar."""

TOO_MUCH = """
SELECT relname FROM pg_class WHERE relnamespace = 'chio'::regnamespace AND relkind = 'r' AND (
    has_table_privilege(%(role)s, oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')
    OR relname = 'http_receipts' AND has_table_privilege(%(role)s, oid, 'INSERT')
) ORDER BY relname
"""
"""Tables that a sidecar could change nevertheless, as a member of another role."""

ARCHIVE_GRANTS = f"""{_ONLY}
GRANT USAGE ON SCHEMA chio TO {{role}};
GRANT SELECT ON ALL TABLES IN SCHEMA chio TO {{role}};
GRANT INSERT ON chio.receipt_archives, chio.archived_state TO {{role}};
GRANT INSERT, UPDATE ON chio.receipt_chain_base TO {{role}};
GRANT DELETE ON chio.http_receipts, chio.capability_invocations, chio.budget_charges TO {{role}};
GRANT EXECUTE ON FUNCTION chio.archived_up_to, chio.horizon, chio.fact TO {{role}};
"""
"""The rights of a rotation."""

ERASE_GRANTS = f"""{_ONLY}
GRANT USAGE ON SCHEMA chio TO {{role}};
GRANT SELECT ON ALL TABLES IN SCHEMA chio TO {{role}};
GRANT UPDATE (receipt_json, fingerprint) ON chio.http_receipts TO {{role}};
GRANT EXECUTE ON FUNCTION chio.horizon, chio.fact TO {{role}};
"""
"""The rights of an erasure."""

TRUST_GRANTS = f"""{_ONLY}
GRANT USAGE ON SCHEMA chio, chio_trust TO {{role}};
GRANT SELECT ON ALL TABLES IN SCHEMA chio TO {{role}};
GRANT INSERT ON chio.revoked_capabilities, chio.authority_trusted_keys TO {{role}};
GRANT SELECT, INSERT, UPDATE ON chio_trust.authority_state TO {{role}};
GRANT EXECUTE ON FUNCTION chio.horizon, chio.fact TO {{role}};
"""
"""The rights of a trust service."""


ERASURES = """
CREATE FUNCTION chio.only_erased() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said json;
BEGIN
    IF (NEW.position, NEW.log_id, NEW.seq, NEW.id, NEW.request_id, NEW.created_at, NEW.chain)
        = (OLD.position, OLD.log_id, OLD.seq, OLD.id, OLD.request_id, OLD.created_at, OLD.chain)
        AND NEW.fingerprint = ''
        AND NOT starts_with(OLD.receipt_json, '{"format":"chio-receipt-erasure/')
        AND starts_with(NEW.receipt_json, '{"format":"chio-receipt-erasure/')
    THEN
        said := NEW.receipt_json::json;
        IF (said->>'id', said->>'row', said->>'digest') = (OLD.id, OLD.seq::text, OLD.chain) THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'http_receipts is append-only' USING ERRCODE = 'CH002';
END $$;
DROP TRIGGER http_receipts_append_only ON chio.http_receipts;
CREATE TRIGGER http_receipts_append_only BEFORE TRUNCATE ON chio.http_receipts EXECUTE FUNCTION chio.refuse();
CREATE TRIGGER http_receipts_only_erased BEFORE UPDATE ON chio.http_receipts
FOR EACH ROW EXECUTE FUNCTION chio.only_erased();
"""
"""What version 7 of the tables adds."""
