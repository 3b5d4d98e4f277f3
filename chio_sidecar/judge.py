"""From a call to a stored receipt: ask the engine, the trust service and the store, and sign what came out.

The store has the last word. It looks at revocations and limited grants in the transaction that keeps the
receipt; when one stands in the way, nothing was stored, and the deny that follows from it is stored instead.
"""

from __future__ import annotations

from typing import Any

from chio_core.canonical import sha256_hex
from chio_core.models.capability import CapabilityToken
from chio_core.models.request import content_hash
from chio_sidecar.calls import EvaluateCall
from chio_sidecar.engine import (
    ANCESTOR_REVOKED,
    AUTHORITY_UNAVAILABLE,
    DENIED_STATUS,
    EXHAUSTED,
    Decision,
    deny,
    refusal,
)
from chio_sidecar.ids import kernel_receipt_id
from chio_sidecar.receipts import compact_json, route_selection, sign_receipt
from chio_sidecar.revocation import AuthorityUnavailable
from chio_sidecar.state import SidecarState
from chio_sidecar.store import (
    AppendOutcome,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    Revoked,
    Stored,
    StoreUnavailable,
)

REVOKED = "capability token has been revoked"
REVOCATION_GUARD = "CapabilityRevocation"

REVOKED_POLICY_HASH = sha256_hex(b"chio_api_protect_revoked_capability")
"""Policy hash of the answer to a revoked token (wire protocol, section 1.7)."""


class Judge:
    """Evaluates calls for one sidecar.

    Args:
        sidecar: its key, store, engine and clock.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._sidecar = sidecar

    async def evaluate(self, call: EvaluateCall) -> Stored | Conflict:
        """Return the durable receipt of a call, or the conflict with an earlier one.

        Raises:
            StoreUnavailable: nothing was stored, so there is no decision.
            InvalidDocument: the receipt cannot be signed.
        """
        decision = self._sidecar.engine.decide(call.request, call.token, self._sidecar.now())
        decision, revoked = await self._ask_authority(decision)
        outcome: AppendOutcome | None = Revoked(revoked) if revoked is not None else None
        if outcome is None:
            outcome = await self._keep(
                call, self._decided(call, decision), _must_not_be_revoked(call, decision), decision.invocation
            )
        if isinstance(outcome, Revoked | Exhausted):
            outcome = await self._keep(call, self._hindered(call, decision, outcome))
        if isinstance(outcome, Stored | Conflict):
            return outcome
        raise StoreUnavailable("the store refused a receipt that asked for nothing")

    async def _ask_authority(self, decision: Decision) -> tuple[Decision, str | None]:
        """Return the decision as the trust service leaves it, and the id of a revoked capability."""
        authority = self._sidecar.revocations
        if decision.capability is None or authority is None:
            return decision, None
        try:
            return decision, await authority.first_revoked(_lineage(decision.capability))
        except AuthorityUnavailable:
            return refusal(decision.rule, AUTHORITY_UNAVAILABLE), None

    async def _keep(
        self,
        call: EvaluateCall,
        body: dict[str, Any],
        unless_revoked: tuple[str, ...] = (),
        invocation: Invocation | None = None,
    ) -> AppendOutcome:
        receipt = sign_receipt(self._sidecar.key, body)
        return await self._sidecar.store.append(
            NewReceipt(
                receipt_id=receipt["id"],
                request_id=call.request.request_id,
                fingerprint=call.fingerprint,
                receipt_json=compact_json(receipt),
                unless_revoked=unless_revoked,
                invocation=invocation,
            )
        )

    def _hindered(self, call: EvaluateCall, decision: Decision, obstacle: Revoked | Exhausted) -> dict[str, Any]:
        if isinstance(obstacle, Revoked):
            if obstacle.capability_id == call.capability_id:
                return self._revoked(call, obstacle.capability_id)
            reason = ANCESTOR_REVOKED.format(id=obstacle.capability_id)
        else:
            tool, server = call.request.tool_name, call.request.tool_server
            reason = EXHAUSTED.format(limit=obstacle.invocation.limit, tool=tool, server=server)
        return self._decided(call, refusal(decision.rule, reason))

    def _decided(self, call: EvaluateCall, decision: Decision) -> dict[str, Any]:
        receipt_id = self._sidecar.ids.new()
        allowed = decision.verdict["verdict"] == "allow"
        return _about(call, str(receipt_id), decision.rule.pattern) | {
            "route_pattern": decision.rule.pattern,
            "verdict": decision.verdict,
            "evidence": decision.evidence,
            "response_status": 200 if allowed else DENIED_STATUS,
            "timestamp": self._sidecar.now(),
            "policy_hash": self._sidecar.routes.policy_hash,
            "capability_id": None if decision.capability is None else decision.capability.id,
            "metadata": {
                "chio_http_status_scope": "decision",
                "chio_kernel_receipt_id": kernel_receipt_id(receipt_id),
                "route_selection": route_selection(call.request.request_id),
            },
        }

    def _revoked(self, call: EvaluateCall, capability_id: str) -> dict[str, Any]:
        # Wire protocol, section 1.7: here the client's route and time count, and there is no evidence.
        request = call.request
        return _about(call, str(self._sidecar.ids.new()), request.route_pattern) | {
            "route_pattern": request.route_pattern or request.path,
            "verdict": deny(REVOKED, REVOCATION_GUARD),
            "response_status": DENIED_STATUS,
            "timestamp": request.timestamp,
            "policy_hash": REVOKED_POLICY_HASH,
            "capability_id": capability_id,
            "metadata": {"chio_http_status_scope": "decision"},
        }


def _about(call: EvaluateCall, receipt_id: str, hashed_pattern: str) -> dict[str, Any]:
    request = call.request
    return {
        "id": receipt_id,
        "request_id": request.request_id,
        "method": request.method,
        "caller_identity_hash": request.caller.identity_hash(),
        "session_id": request.session_id,
        "content_hash": content_hash(request.method, hashed_pattern, request.path, request.query, request.body_hash),
    }


def _lineage(capability: CapabilityToken) -> tuple[str, ...]:
    """Return the ids of a token and of those that it was derived from."""
    ancestors = (link.capability_id for link in capability.delegation_chain)
    return tuple(dict.fromkeys((capability.id, *ancestors)))


def _must_not_be_revoked(call: EvaluateCall, decision: Decision) -> tuple[str, ...]:
    if decision.capability is not None:
        return _lineage(decision.capability)
    return () if call.capability_id is None else (call.capability_id,)
