"""From a call to a stored receipt: ask the engine, the trust service and the store, and sign what came out.

The store has the last word. It looks at revocations, limited grants, approvals and accounts in the transaction that
keeps the receipt; when one stands in the way, nothing was stored, and what follows from it is stored instead: a deny,
or that a person has not answered yet.
"""

from __future__ import annotations

from typing import Any

from chio_core.canonical import compact_json, sha256_hex
from chio_core.evaluation.exchange import FURTHER_TO
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import APPROVAL_GUARD, BUDGET_GUARD, EXHAUSTED, REVOKED
from chio_core.models.request import content_hash
from chio_sidecar.keys import kernel_receipt_id
from chio_sidecar.policy.approvals import DENIED, question, refused_reason, too_many_reason
from chio_sidecar.policy.budgets import exceeded_reason
from chio_sidecar.policy.engine import (
    ANCESTOR_REVOKED,
    AUTHORITY_UNAVAILABLE,
    DENIED_STATUS,
    Decision,
    deny,
    refusal,
    unmet,
    waiting,
)
from chio_sidecar.policy.obligations import First, has_demands, read_first
from chio_sidecar.records.observed import METADATA as ENFORCEMENT
from chio_sidecar.service.evaluate_request import EvaluateRequest
from chio_sidecar.service.receipts import route_selection, sign_receipt
from chio_sidecar.service.revocation import AuthorityUnavailable
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import (
    AlreadyAsked,
    AppendOutcome,
    ApprovalRefused,
    ApprovalUse,
    ApprovalWait,
    BudgetExceeded,
    Conflict,
    Demand,
    Exhausted,
    Invocation,
    NewReceipt,
    Revoked,
    Stored,
    StoreUnavailable,
    TooManyWaiting,
)

REVOCATION_GUARD = "CapabilityRevocation"

REVOKED_POLICY_HASH = sha256_hex(b"chio_api_protect_revoked_capability")
"""Policy hash of the answer to a revoked token (wire protocol, section 1.7)."""

APPROVAL_ID = "chio_approval_id"
"""Member of a receipt's metadata: the approval that the request waits for, or used."""

ASKED = "approval {id} is waiting for an answer"

_BUSY_STATUS = 503
_UNANSWERED_STATUS = 500  # wire protocol, section 3.1
_LONGEST_ENFORCEMENT = 200
_STATED = ("mode", "requires", "lacks")


class Judge:
    """Evaluates calls for one sidecar.

    Args:
        sidecar: its key, store, engine and clock.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._sidecar = sidecar

    async def evaluate(self, call: EvaluateRequest) -> Stored | Conflict:
        """Return the durable receipt of a call, or the conflict with an earlier one.

        Raises:
            StoreUnavailable: nothing was stored, so there is no decision.
            InvalidDocument: the receipt cannot be signed.
        """
        if isinstance(call.token, CapabilityToken):
            await self._sidecar.meet(call.token.issuer)
        first = await self._first(call)
        decision = self._sidecar.engine.decide(call.request, call.token, self._sidecar.now(), first)
        decision, revoked = await self._ask_authority(decision)
        if revoked is not None:
            outcome: AppendOutcome = await self._keep(call, self._hindered(call, decision, Revoked(revoked)))
        else:
            outcome = await self._keep_decision(call, decision)
        if isinstance(outcome, Stored | Conflict):
            return outcome
        raise StoreUnavailable("the store refused a receipt that asked for nothing")

    async def _first(self, call: EvaluateRequest) -> First:
        """Return the receipt that a further question names; where nothing is demanded, it makes no difference."""
        sidecar, request = self._sidecar, call.request
        if request.further_to is None or not has_demands(request, sidecar.routes.match(request.method, request.path)):
            return None
        return read_first(request.further_to, await sidecar.store.get(request.further_to), sidecar.key.public_hex)

    async def _keep_decision(self, call: EvaluateRequest, decision: Decision) -> AppendOutcome:
        """Store the receipt of a decision or, when something stands in the way, of the one that follows from that."""
        wait = self._wait(decision)
        demands = decision.demands if wait is None else (wait,)
        outcome = await self._keep(
            call,
            self._decided(call, decision, _approval_id(demands)),
            _must_not_be_revoked(call, decision),
            decision.invocation,
            demands,
        )
        if isinstance(outcome, Stored | Conflict):
            return outcome
        return await self._keep(call, self._hindered(call, decision, outcome))

    def _wait(self, decision: Decision) -> ApprovalWait | None:
        """Return the question to a person that a decision asks for."""
        if decision.question is None:
            return None
        sidecar = self._sidecar
        return question(decision.question, sidecar.routes.policy_hash, sidecar.engine.trusted_approvers, sidecar.now())

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
        call: EvaluateRequest,
        body: dict[str, Any],
        unless_revoked: tuple[str, ...] = (),
        invocation: Invocation | None = None,
        demands: tuple[Demand, ...] = (),
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
                demands=demands,
            )
        )

    def _hindered(self, call: EvaluateRequest, decision: Decision, obstacle: AppendOutcome) -> dict[str, Any]:
        """Return the body of the receipt that is stored instead."""
        if isinstance(obstacle, Revoked):
            if obstacle.capability_id == call.capability_id:
                return self._revoked(call, obstacle.capability_id)
            reason = ANCESTOR_REVOKED.format(id=obstacle.capability_id)
            return self._decided(call, refusal(decision.rule, reason))
        if isinstance(obstacle, Exhausted):
            tool, server = call.request.tool_name, call.request.tool_server
            reason = EXHAUSTED.format(limit=obstacle.invocation.limit, tool=tool, server=server)
            return self._decided(call, refusal(decision.rule, reason))
        if isinstance(obstacle, BudgetExceeded):
            return self._decided(call, unmet(decision, BUDGET_GUARD, exceeded_reason(obstacle)))
        return self._not_approved(call, decision, obstacle)

    def _not_approved(self, call: EvaluateRequest, decision: Decision, obstacle: AppendOutcome) -> dict[str, Any]:
        if isinstance(obstacle, TooManyWaiting):
            found = unmet(decision, APPROVAL_GUARD, too_many_reason(obstacle), status=_BUSY_STATUS)
            return self._decided(call, found)
        if isinstance(obstacle, ApprovalRefused) and obstacle.why != "waiting":
            return self._decided(call, unmet(decision, APPROVAL_GUARD, refused_reason(obstacle)))
        if not isinstance(obstacle, AlreadyAsked | ApprovalRefused):
            raise StoreUnavailable("the store refused a receipt for no reason")
        if isinstance(obstacle, AlreadyAsked) and obstacle.denied:
            reason = DENIED.format(id=obstacle.approval_id)
            return self._decided(call, unmet(decision, APPROVAL_GUARD, reason), obstacle.approval_id)
        found = waiting(decision, ASKED.format(id=obstacle.approval_id))
        return self._decided(call, found, obstacle.approval_id)

    def _decided(self, call: EvaluateRequest, decision: Decision, approval_id: str | None = None) -> dict[str, Any]:
        receipt_id = self._sidecar.ids.new()
        return _about(call, str(receipt_id), decision.rule.pattern) | {
            "route_pattern": decision.rule.pattern,
            "verdict": decision.verdict,
            "evidence": decision.evidence,
            "response_status": _status(decision.verdict),
            "timestamp": self._sidecar.now(),
            "policy_hash": self._sidecar.routes.policy_hash,
            "capability_id": None if decision.capability is None else decision.capability.id,
            "metadata": {
                "chio_http_status_scope": "decision",
                "chio_kernel_receipt_id": kernel_receipt_id(receipt_id),
                "route_selection": route_selection(call.request.request_id),
                **({} if approval_id is None else {APPROVAL_ID: approval_id}),
                **({} if decision.further_to is None else {FURTHER_TO: decision.further_to}),
                **_enforcement(call),
            },
        }

    def _revoked(self, call: EvaluateRequest, capability_id: str) -> dict[str, Any]:
        # Wire protocol, section 1.7: here the client's route and time count, and there is no evidence.
        request = call.request
        return _about(call, str(self._sidecar.ids.new()), request.route_pattern) | {
            "route_pattern": request.route_pattern or request.path,
            "verdict": deny(REVOKED, REVOCATION_GUARD),
            "response_status": DENIED_STATUS,
            "timestamp": request.timestamp,
            "policy_hash": REVOKED_POLICY_HASH,
            "capability_id": capability_id,
            "metadata": {"chio_http_status_scope": "decision", **_enforcement(call)},
        }


def _status(verdict: dict[str, Any]) -> int:
    """Return the `response_status` of a decision receipt (wire protocol, section 3.1)."""
    if verdict["verdict"] == "allow":
        return 200
    return int(verdict.get("http_status", _UNANSWERED_STATUS))


def _approval_id(demands: tuple[Demand, ...]) -> str | None:
    return next((demand.approval_id for demand in demands if isinstance(demand, ApprovalUse | ApprovalWait)), None)


def _enforcement(call: EvaluateRequest) -> dict[str, Any]:
    """Return the metadata of a request that the application only observes: what it said about that."""
    said = call.request.enforcement
    if said is None:
        return {}
    kept = {name: said[name][:_LONGEST_ENFORCEMENT] for name in _STATED if isinstance(said.get(name), str)}
    return {ENFORCEMENT: kept} if kept else {}


def _about(call: EvaluateRequest, receipt_id: str, hashed_pattern: str) -> dict[str, Any]:
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


def _must_not_be_revoked(call: EvaluateRequest, decision: Decision) -> tuple[str, ...]:
    if decision.capability is not None:
        return _lineage(decision.capability)
    return () if call.capability_id is None else (call.capability_id,)
