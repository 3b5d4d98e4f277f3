"""The function that decides which receipts of a batch are stored, and what it answers for each of them.

A batch is stored whole by `chio.append` or `chio.spend`, or not at all. If something in it is refused or repeated, or
asks for an approval, `chio.decide` takes it: receipt by receipt, under the locks of all, by the rules of `writes`. It
stores the others, and says of each that is not stored why not. So such a batch needs one statement more, whatever other
sidecars do meanwhile, and no lock waits for a sidecar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from chio_sidecar.store import (
    AlreadyRequested,
    AppendOutcome,
    ApprovalRefused,
    ApprovalRequest,
    ApprovalUse,
    BudgetExceeded,
    Charge,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    Obligation,
    Revoked,
    Stored,
    TooManyWaiting,
)
from chio_sidecar.store.hash_chain import DOMAIN
from chio_sidecar.store.postgresql.functions import APPENDING
from chio_sidecar.store.writes import MAX_TOTAL

_KINDS: dict[type[Obligation], str] = {
    Charge: "charge",
    Invocation: "use",
    ApprovalUse: "approval",
    ApprovalRequest: "request",
}

DECIDE_CALL = "SELECT chio.decide(%s, %s, %s, %s, %s, %s::bigint[], %s, %s, %s, %s, %s, %s, %s, %s::jsonb)"


def obligations_of(entry: NewReceipt) -> tuple[Obligation, ...]:
    """Return everything that a receipt spends or asks for, in the order in which it is checked."""
    return entry.obligations if entry.invocation is None else (entry.invocation, *entry.obligations)


def conditions_of(entry: NewReceipt) -> dict[str, Any]:
    """Return the conditions of a receipt as `chio.decide` reads them."""
    spends = [{"kind": _KINDS[type(one)]} | asdict(one) for one in obligations_of(entry)]
    return {"unless": entry.unless_revoked, "spends": spends}


def outcome_of(entry: NewReceipt, said: Sequence[Any]) -> AppendOutcome:
    """Return what `chio.decide` says of a receipt: a word, then the number of the obligation if it is about one."""
    match said:
        case ["stored"]:
            return Stored(entry.receipt_json, fresh=True)
        case ["known", text, fingerprint]:
            return Stored(text, fresh=False) if fingerprint == entry.fingerprint else Conflict()
        case ["revoked", name]:
            return Revoked(name)
    match obligations_of(entry)[said[1] - 1], said:
        case Invocation() as invocation, ["exhausted", _]:
            return Exhausted(invocation)
        case Charge() as charge, ["exceeded", _, ("invocations" | "total") as limit, left]:
            return BudgetExceeded(charge, limit, left)
        case ApprovalUse() as use, ["refused", _, why]:
            return ApprovalRefused(use.approval_id, why)
        case ApprovalRequest(), ["requested", _, approval_id, denied]:
            return AlreadyRequested(approval_id, denied)
        case ApprovalRequest(), ["waiting", _, limit, own]:
            return TooManyWaiting(limit, own)
    raise ValueError(f"chio.decide says {said[0]} of another obligation")


def _sized(name: str) -> str:
    """Return the bytes that a digest covers for a text, see `hash_chain`."""
    return f"int8send(octet_length({name})::bigint) || convert_to({name}, 'UTF8')"


_MEMBERS = " || ".join(_sized(f"entry.{name}") for name in ("new_id", "content", "request", "stored_at"))

DECIDE = f"""
-- The first of these obligations that cannot be recorded, and why; NULL if all can. `chio.decide` calls it for each
-- receipt, and sets the search_path once for all: that takes longer than most of what follows.
CREATE OR REPLACE FUNCTION chio.obstacle(spends jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    one jsonb;
    place bigint;
    state record;
    most bigint;
    why text;
BEGIN
    FOR one, place IN SELECT * FROM jsonb_array_elements(spends) WITH ORDINALITY LOOP
        CASE one->>'kind'
        WHEN 'use' THEN
            IF (one->>'limit')::bigint <= (
                SELECT coalesce(max(i.ordinal), 0) FROM chio.capability_invocations i
                WHERE i.capability_id = one->>'capability_id' AND i.grant_index = (one->>'grant_index')::bigint
            ) THEN
                RETURN jsonb_build_array('exhausted', place);
            END IF;
        WHEN 'charge' THEN
            SELECT b.ordinal AS count, b.total AS total INTO state FROM chio.budget_charges b
            WHERE b.account = one->>'account' ORDER BY b.ordinal DESC LIMIT 1;
            IF coalesce(state.count, 0) >= (one->>'max_invocations')::bigint THEN
                RETURN jsonb_build_array('exceeded', place, 'invocations', 0);
            END IF;
            most := coalesce((one->>'max_total')::bigint, {MAX_TOTAL});
            IF (one->>'cost')::bigint > most - coalesce(state.total, 0) THEN
                RETURN jsonb_build_array('exceeded', place, 'total', greatest(most - coalesce(state.total, 0), 0));
            END IF;
        WHEN 'approval' THEN
            SELECT p.intent_hash AS intent, p.expires_at AS until, c.approval_id AS used, r.outcome AS response,
                r.expires_at AS response_until
            INTO state FROM chio.chio_hitl_pending p
            LEFT JOIN chio.chio_hitl_resolved r ON r.approval_id = p.approval_id
            LEFT JOIN chio.chio_hitl_consumed_tokens c ON c.approval_id = p.approval_id
            WHERE p.approval_id = one->>'approval_id';
            why := CASE
                WHEN NOT FOUND THEN 'unknown'
                WHEN state.intent <> one->>'intent_hash' THEN 'another request'
                WHEN state.used IS NOT NULL THEN 'used'
                WHEN state.response = 'denied' THEN 'denied'
                WHEN coalesce(state.response_until, state.until) <= (one->>'at')::bigint THEN 'expired'
                WHEN state.response IS NOT NULL THEN NULL
                WHEN one#>>'{{token,token_id}}' IS NULL THEN 'waiting'
                WHEN EXISTS (
                    SELECT FROM chio.chio_hitl_resolved t WHERE t.token_id = one#>>'{{token,token_id}}'
                ) THEN 'replayed'
            END;
            IF why IS NOT NULL THEN
                RETURN jsonb_build_array('refused', place, why);
            END IF;
        WHEN 'request' THEN
            SELECT p.approval_id AS id, coalesce(r.expires_at, p.expires_at) AS until, r.outcome AS response,
                c.approval_id AS used
            INTO state FROM chio.chio_hitl_pending p
            LEFT JOIN chio.chio_hitl_resolved r ON r.approval_id = p.approval_id
            LEFT JOIN chio.chio_hitl_consumed_tokens c ON c.approval_id = p.approval_id
            WHERE p.intent_hash = one->>'intent_hash' ORDER BY p.seq DESC LIMIT 1;
            IF FOUND AND state.used IS NULL AND state.until > (one->>'created_at')::bigint THEN
                RETURN jsonb_build_array('requested', place, state.id, coalesce(state.response = 'denied', false));
            END IF;
            SELECT count(*) AS all_of_them, count(*) FILTER (WHERE p.requester = one->>'requester') AS own
            INTO state FROM chio.chio_hitl_pending p
            WHERE p.expires_at > (one->>'created_at')::bigint
                AND NOT EXISTS (SELECT FROM chio.chio_hitl_resolved r WHERE r.approval_id = p.approval_id);
            IF state.own >= (one->>'max_open_each')::bigint THEN
                RETURN jsonb_build_array('waiting', place, (one->>'max_open_each')::bigint, true);
            END IF;
            IF state.all_of_them >= (one->>'max_open')::bigint THEN
                RETURN jsonb_build_array('waiting', place, (one->>'max_open')::bigint, false);
            END IF;
        END CASE;
    END LOOP;
    RETURN NULL;
END $$;

-- Record obligations that have no obstacle.
CREATE OR REPLACE FUNCTION chio.record(spends jsonb, request text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    one jsonb;
BEGIN
    FOR one IN SELECT * FROM jsonb_array_elements(spends) LOOP
        CASE one->>'kind'
        WHEN 'use' THEN
            INSERT INTO chio.capability_invocations
            SELECT one->>'capability_id', (one->>'grant_index')::bigint, coalesce(max(i.ordinal), 0) + 1, request
            FROM chio.capability_invocations i
            WHERE i.capability_id = one->>'capability_id' AND i.grant_index = (one->>'grant_index')::bigint;
        WHEN 'charge' THEN
            INSERT INTO chio.budget_charges
            SELECT one->>'account', coalesce(newest.ordinal, 0) + 1, (one->>'cost')::bigint,
                coalesce(newest.total, 0) + (one->>'cost')::bigint, request
            FROM (SELECT) AS always LEFT JOIN LATERAL (
                SELECT b.ordinal, b.total FROM chio.budget_charges b WHERE b.account = one->>'account'
                ORDER BY b.ordinal DESC LIMIT 1
            ) AS newest ON true;
        WHEN 'approval' THEN
            -- A response that was stored before is the one that counts.
            IF jsonb_typeof(one->'token') = 'object' THEN
                INSERT INTO chio.chio_hitl_resolved
                    (approval_id, outcome, reason, approver, token_id, token_json, resolved_at, expires_at)
                SELECT one->>'approval_id', t.outcome, t.reason, t.approver, t.token_id, t.token_json, t.resolved_at,
                    t.expires_at
                FROM jsonb_to_record(one->'token') AS t (
                    outcome text, reason text, approver text, token_id text, token_json text, resolved_at bigint,
                    expires_at bigint
                ) ON CONFLICT (approval_id) DO NOTHING;
            END IF;
            INSERT INTO chio.chio_hitl_consumed_tokens (approval_id, token_id, request_id, consumed_at)
            SELECT r.approval_id, r.token_id, request, (one->>'at')::bigint
            FROM chio.chio_hitl_resolved r WHERE r.approval_id = one->>'approval_id';
        WHEN 'request' THEN
            INSERT INTO chio.chio_hitl_pending
                (approval_id, intent_hash, requester, request_json, created_at, expires_at)
            VALUES (one->>'approval_id', one->>'intent_hash', one->>'requester', one->>'request_json',
                (one->>'created_at')::bigint, (one->>'expires_at')::bigint);
        END CASE;
    END LOOP;
END $$;

-- Store those receipts of a batch whose conditions hold, with what they spend. Returns an outcome for each, and the
-- newest row of the log; NULL if the log has moved. `contents` are hashes of what can be erased of each receipt;
-- `conditions` has an object for each: capabilities of which none may be revoked, and what the receipt spends.
CREATE OR REPLACE FUNCTION chio.decide(
    own bigint, own_epoch bigint, last bigint, last_digest text, seconds double precision, keys bigint[], wait text,
    ids text[], jsons text[], requests text[], prints text[], times text[], contents text[], conditions jsonb
) RETURNS json LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    entry record;
    place integer;
    said jsonb;
    outcomes jsonb[];
    known text[];
    revoked text[];
    new_ids text[];
    new_jsons text[];
    new_requests text[];
    new_prints text[];
    new_times text[];
    new_digests text[];
    digest text;
    result text;
BEGIN
    PERFORM set_config('lock_timeout', wait, true);
    PERFORM pg_advisory_xact_lock_shared({APPENDING});
    PERFORM pg_advisory_xact_lock(k) FROM unnest(keys) AS k;
    -- From here on each statement sees what was committed before the locks were had.
    revoked := ARRAY(
        SELECT c.capability_id FROM chio.revoked_capabilities c WHERE c.capability_id IN (
            SELECT jsonb_array_elements_text(e->'unless') FROM jsonb_array_elements(conditions) AS e
        )
    );
    LOOP
        outcomes := '{{}}';
        new_ids := '{{}}'; new_jsons := '{{}}'; new_requests := '{{}}'; new_prints := '{{}}'; new_times := '{{}}';
        new_digests := '{{}}';
        digest := last_digest;
        known := ARRAY(SELECT r.request_id FROM chio.http_receipts r WHERE r.request_id = ANY (requests));
        BEGIN
            FOR entry IN
                SELECT * FROM ROWS FROM (
                    unnest(ids, jsons, requests, prints, times, contents), jsonb_array_elements(conditions)
                ) AS e (new_id, receipt, request, print, stored_at, content, condition)
            LOOP
                said := NULL;
                -- A request that is repeated has its receipt already, from before or in this batch.
                place := array_position(new_requests, entry.request);
                IF place IS NOT NULL THEN
                    said := jsonb_build_array('known', new_jsons[place], new_prints[place]);
                ELSIF entry.request = ANY (known) THEN
                    SELECT jsonb_build_array('known', r.receipt_json, r.fingerprint) INTO said
                    FROM chio.http_receipts r WHERE r.request_id = entry.request;
                ELSIF entry.condition->'unless' ?| revoked THEN
                    SELECT jsonb_build_array('revoked', u.name) INTO said
                    FROM jsonb_array_elements_text(entry.condition->'unless') WITH ORDINALITY AS u (name, n)
                    WHERE u.name = ANY (revoked) ORDER BY u.n LIMIT 1;
                ELSIF entry.condition->'spends' <> '[]' THEN
                    said := chio.obstacle(entry.condition->'spends');
                END IF;
                IF said IS NULL THEN
                    IF entry.condition->'spends' <> '[]' THEN
                        PERFORM chio.record(entry.condition->'spends', entry.request);
                    END IF;
                    new_ids := array_append(new_ids, entry.new_id);
                    new_jsons := array_append(new_jsons, entry.receipt);
                    new_requests := array_append(new_requests, entry.request);
                    new_prints := array_append(new_prints, entry.print);
                    new_times := array_append(new_times, entry.stored_at);
                    -- Which number a receipt has follows from those before it, so its digest is made here.
                    digest := encode(sha256(
                        '\\x{DOMAIN.hex()}'::bytea || {_sized("digest")} || int8send(last + cardinality(new_ids))
                        || {_MEMBERS}
                    ), 'hex');
                    new_digests := array_append(new_digests, digest);
                    said := '["stored"]';
                END IF;
                outcomes := array_append(outcomes, said);
            END LOOP;
            IF cardinality(new_ids) > 0 THEN
                result := chio.append(
                    own, own_epoch, last, last_digest, seconds, '{{}}',
                    new_ids, new_jsons, new_requests, new_prints, new_times, new_digests
                );
                IF result <> 'stored' THEN
                    RAISE EXCEPTION USING ERRCODE = 'CH001', MESSAGE = result;
                END IF;
            END IF;
            RETURN json_build_object(
                'outcomes', array_to_json(outcomes), 'sequence', last + cardinality(new_ids), 'digest', digest
            );
        EXCEPTION WHEN SQLSTATE 'CH001' THEN  -- what was recorded is undone
            IF SQLERRM = 'moved' THEN
                RETURN NULL;
            END IF;
        END;
        -- Another sidecar has stored one of the requests since it was looked for; the next round finds it. So there
        -- are no more rounds than requests.
        IF NOT EXISTS (SELECT FROM chio.http_receipts WHERE request_id = ANY (new_requests)) THEN
            RAISE EXCEPTION 'a receipt id is taken by another request' USING ERRCODE = 'unique_violation';
        END IF;
    END LOOP;
END $$;
"""  # noqa: S608 - only constants
