"""The functions of the PostgreSQL store, which each migration makes again, and the indexes for filters of receipts.

A receipt is a text, which an index looks into without parsing it: the index of a condition has every receipt that meets
it, and few others, and a reader compares the receipts themselves.
"""

from __future__ import annotations

from chio_sidecar.store.hash_chain import FIRST
from chio_sidecar.store.postgresql.connection import ISOLATED, NOT_DURABLE, UNISOLATED
from chio_sidecar.store.writes import MAX_TOTAL

# What a receipt says under a name, if its text has the name once, as sidecars write it; NULL if that is not certain.
FACT = r"""
CREATE OR REPLACE FUNCTION chio.fact(receipt text, name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN strpos(receipt, '\u') > 0 OR split_part(receipt, name, 3) <> '' THEN NULL
        WHEN strpos(receipt, '"' || name || '":"') = 0 THEN NULL
        ELSE split_part(split_part(receipt, '"' || name || '":"', 2), '"', 1)
    END
$$;
"""

UNCERTAIN = 0
"""A number and not NULL, for which the planner estimates so many rows that it would read the table."""


def key(name: str) -> str:
    """Return the indexed number of what receipts say under a name; a reader compares the receipts themselves."""
    return f"coalesce(hashtextextended(chio.fact(receipt_json, '{name}'), 0), {UNCERTAIN})"


def keyed(name: str) -> str:
    """Return the condition of the receipts that the index of a member has: the others do not have the member."""
    return rf"(strpos(receipt_json, '{name}') > 0 OR strpos(receipt_json, '\u') > 0)"


REFUSALS = ("deny", "cancel", "incomplete")
REFUSED = "(" + " OR ".join(f"strpos(receipt_json, '{verdict}') > 0" for verdict in REFUSALS) + ")"
"""A condition of every receipt that is no allow, and of few others."""

INDEXED = ("capability_id", "caller_identity_hash")
INDEXES = {
    "http_receipts_refused": f"chio.http_receipts (position) WHERE {REFUSED}",
    **{f"http_receipts_{name}": f"chio.http_receipts ({key(name)}, position) WHERE {keyed(name)}" for name in INDEXED},
}
"""What the indexes for filters are about, by name; they are made while sidecars write."""

APPENDING = 0x6368696F
"""Key of the advisory lock of everything that appends: shared in appends, exclusive in a revocation. So a revocation
precedes every later receipt."""

STORING = 0x6368 << 16
"""Key of the advisory locks that state where a transaction stores: behind a position, whose upper 16 bits are added to
this key, and whose lower 32 are the second key. They block nothing; `chio.horizon` reads them."""

# A schema of its own, which a sidecar cannot read, and a copy of the receipt store does not have.
_SECRETS = """
CREATE SCHEMA IF NOT EXISTS chio_trust;
CREATE TABLE IF NOT EXISTS chio_trust.authority_state (
    singleton_id integer NOT NULL PRIMARY KEY CHECK (singleton_id = 1),
    seed_hex text NOT NULL,
    public_key_hex text NOT NULL,
    generation bigint NOT NULL,
    rotated_at bigint NOT NULL
);
"""

_APPROVALS = """json_to_recordset(approvals) AS a (
            approval_id text, intent_hash text, at bigint, request_id text, outcome text, reason text, approver text,
            token_id text, token_json text, resolved_at bigint, expires_at bigint
        )"""

FUNCTIONS = f"""{_SECRETS}{FACT}
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
    signer text;
    known text;
BEGIN
    -- What waited for a lock must see what the transaction before it has committed, and what is acknowledged stays. A
    -- setting of the role, the database or a pool can change both while a sidecar runs.
    IF current_setting('transaction_isolation') <> ALL ('{{{",".join(UNISOLATED)}}}') THEN
        RAISE EXCEPTION 'transactions are %', current_setting('transaction_isolation') USING ERRCODE = '{ISOLATED}';
    ELSIF current_setting('synchronous_commit') = 'off' THEN
        RAISE EXCEPTION 'synchronous_commit is off' USING ERRCODE = '{NOT_DURABLE}';
    END IF;
    PERFORM pg_advisory_xact_lock_shared({APPENDING});
    SELECT * INTO head FROM chio.logs WHERE log_id = own FOR UPDATE;
    IF head.epoch IS DISTINCT FROM own_epoch OR head.seq <> last OR head.digest <> last_digest THEN
        RETURN 'moved';
    END IF;
    IF EXISTS (SELECT FROM chio.revoked_capabilities WHERE capability_id = ANY (unless)) THEN
        RETURN 'revoked';
    END IF;
    IF EXISTS (SELECT FROM unnest(jsons) AS j WHERE starts_with(j, '{{"format":"chio-receipt-erasure/')) THEN
        RAISE EXCEPTION 'a sidecar stores receipts' USING ERRCODE = 'CH002';
    END IF;
    -- Stated before the rows get their positions: until this transaction ends, lists end here.
    PERFORM pg_advisory_xact_lock_shared({STORING} + (newest >> 32)::integer, (newest << 32 >> 32)::integer)
    FROM (SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS newest FROM chio.http_receipts_position_seq) AS s;
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
    -- A receipt ends with its key and its signature, as a sidecar writes it.
    signer := left(split_part(right(jsons[stored], 256), '"kernel_key":"', 2), 64);
    SELECT kernel_key INTO known FROM chio.kernel_keys WHERE log_id = own ORDER BY seq DESC LIMIT 1;
    IF signer IS DISTINCT FROM known AND signer ~ '^[0-9a-f]{{64}}$' THEN
        INSERT INTO chio.kernel_keys (log_id, seq, kernel_key) VALUES (own, last + 1, signer);
    END IF;
    RETURN 'stored';
END $$;

-- Receipts with what they spend, so the locks are held only while the database works. `counts` and `mosts` limit
-- invocations and totals of accounts, `limits` limits uses of grants; NULL is no limit. `approvals` has an object for
-- each approval that a request uses, with the response that the request presents. Returns what chio.append does, or
-- `over` if something cannot be spent. Sidecars of version 8 give no arguments after `spenders`.
CREATE OR REPLACE FUNCTION chio.spend(
    own bigint, own_epoch bigint, last bigint, last_digest text, seconds double precision, unless text[],
    ids text[], jsons text[], requests text[], prints text[], times text[], digests text[],
    keys bigint[], wait text,
    accounts text[], costs bigint[], counts bigint[], mosts bigint[], spenders text[],
    capabilities text[] DEFAULT '{{}}', grants bigint[] DEFAULT '{{}}', limits bigint[] DEFAULT '{{}}',
    users text[] DEFAULT '{{}}', approvals json DEFAULT '[]'
) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ordinals bigint[];
    totals numeric[];
    uses bigint[];
    is_over boolean;
    outcome text;
BEGIN
    PERFORM set_config('lock_timeout', wait, true);
    PERFORM pg_advisory_xact_lock_shared({APPENDING});
    PERFORM pg_advisory_xact_lock(k) FROM unnest(keys) AS k;
    -- From here on each statement sees what was committed before the locks were had.
    IF cardinality(accounts) > 0 THEN
        SELECT array_agg(before + rank ORDER BY n), array_agg(spent + total ORDER BY n),
            bool_or(before + rank > count OR spent + total > coalesce(most, {MAX_TOTAL}))
        INTO ordinals, totals, is_over
        FROM (
            SELECT n, count, most, coalesce(newest.ordinal, 0) AS before, coalesce(newest.total, 0) AS spent,
                count(*) OVER earlier AS rank, sum(cost) OVER earlier AS total
            FROM unnest(accounts, costs, counts, mosts) WITH ORDINALITY AS c (account, cost, count, most, n)
            LEFT JOIN LATERAL (
                SELECT b.ordinal, b.total FROM chio.budget_charges b WHERE b.account = c.account
                ORDER BY b.ordinal DESC LIMIT 1
            ) AS newest ON true
            WINDOW earlier AS (PARTITION BY account ORDER BY n)
        ) AS charges;
        IF is_over THEN
            RETURN 'over';
        END IF;
    END IF;
    IF cardinality(capabilities) > 0 THEN
        SELECT array_agg(before + rank ORDER BY n), bool_or(before + rank > most)
        INTO uses, is_over
        FROM (
            SELECT n, most, coalesce(newest.ordinal, 0) AS before, count(*) OVER earlier AS rank
            FROM unnest(capabilities, grants, limits) WITH ORDINALITY AS u (capability, part, most, n)
            LEFT JOIN LATERAL (
                SELECT i.ordinal FROM chio.capability_invocations i
                WHERE i.capability_id = u.capability AND i.grant_index = u.part ORDER BY i.ordinal DESC LIMIT 1
            ) AS newest ON true
            WINDOW earlier AS (PARTITION BY capability, part ORDER BY n)
        ) AS invocations;
        IF is_over THEN
            RETURN 'over';
        END IF;
    END IF;
    IF json_array_length(approvals) > 0 THEN
        -- Each is pending or approved, for this intent, not used, and has one use here; so has each new token.
        SELECT count(DISTINCT a.approval_id) < count(*)
            OR count(DISTINCT a.token_id) < count(a.token_id)
            OR bool_or(
                p.intent_hash IS DISTINCT FROM a.intent_hash OR c.approval_id IS NOT NULL
                OR CASE
                    WHEN r.approval_id IS NOT NULL THEN r.outcome = 'denied' OR r.expires_at <= a.at
                    ELSE a.token_id IS NULL OR p.expires_at <= a.at OR EXISTS (
                        SELECT FROM chio.chio_hitl_resolved t WHERE t.token_id = a.token_id
                    )
                END
            )
        INTO is_over
        FROM {_APPROVALS}
        LEFT JOIN chio.chio_hitl_pending p ON p.approval_id = a.approval_id
        LEFT JOIN chio.chio_hitl_resolved r ON r.approval_id = a.approval_id
        LEFT JOIN chio.chio_hitl_consumed_tokens c ON c.approval_id = a.approval_id;
        IF is_over THEN
            RETURN 'over';
        END IF;
    END IF;
    outcome := chio.append(
        own, own_epoch, last, last_digest, seconds, unless, ids, jsons, requests, prints, times, digests
    );
    IF outcome <> 'stored' THEN
        RETURN outcome;
    END IF;
    IF cardinality(accounts) > 0 THEN
        INSERT INTO chio.budget_charges SELECT * FROM unnest(accounts, ordinals, costs, totals::bigint[], spenders);
    END IF;
    IF cardinality(capabilities) > 0 THEN
        INSERT INTO chio.capability_invocations SELECT * FROM unnest(capabilities, grants, uses, users);
    END IF;
    IF json_array_length(approvals) > 0 THEN
        -- A response that was stored before is the one that counts.
        INSERT INTO chio.chio_hitl_resolved
            (approval_id, outcome, reason, approver, token_id, token_json, resolved_at, expires_at)
        SELECT a.approval_id, a.outcome, a.reason, a.approver, a.token_id, a.token_json, a.resolved_at, a.expires_at
        FROM {_APPROVALS} WHERE a.token_id IS NOT NULL ON CONFLICT (approval_id) DO NOTHING;
        INSERT INTO chio.chio_hitl_consumed_tokens (approval_id, token_id, request_id, consumed_at)
        SELECT a.approval_id, r.token_id, a.request_id, a.at
        FROM {_APPROVALS} JOIN chio.chio_hitl_resolved r ON r.approval_id = a.approval_id;
    END IF;
    RETURN 'stored';
END $$;

"""  # noqa: S608 - only constants

HORIZON = f"""
CREATE OR REPLACE FUNCTION chio.horizon() RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint;
BEGIN
    -- In this order: a transaction that has a position up to the newest row, and has not ended, holds its lock by then.
    newest := (SELECT coalesce(max(position), 0) FROM chio.http_receipts);
    RETURN (
        SELECT least(newest, min(((classid::bigint - {STORING}) << 32) + objid::bigint)) FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 2 AND classid::bigint >> 16 = {STORING >> 16}
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    );
END $$;
"""  # noqa: S608 - only constants
