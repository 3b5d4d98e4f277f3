"""The trigger of erasures: a signed record takes the place of a receipt's text, and nothing else of a row changes.

A role that can do nothing else erases (`erase`). The trigger compares the record with its row; whether its signature
verifies is for `receipt fsck` to find.
"""

from __future__ import annotations

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
