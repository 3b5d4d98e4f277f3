"""From an evaluate request to a stored receipt: engine, trust service, store, signature.

The store has the last word. It checks revocations, limited grants, approvals and accounts in the transaction that
keeps the receipt. When a check fails, nothing was stored, and the receipt of the resulting decision is stored instead:
a deny, or the verdict `incomplete` while a person has to approve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chio_core.canonical import parse_json
from chio_core.capabilities.restrictions import GRANT
from chio_core.evaluation.exchange import FURTHER_TO
from chio_core.models.capability import CapabilityToken
from chio_core.models.receipt import RULE
from chio_core.models.request import content_hash
from chio_core.signing import Signed
from chio_sidecar.keys import kernel_receipt_id
from chio_sidecar.policy.approvals import APPROVAL_ID, approval_refusal, approval_request
from chio_sidecar.policy.budgets import budget_refusal
from chio_sidecar.policy.engine import DENIED_STATUS, Decision, deny, refuse, refuse_obligation, wait
from chio_sidecar.policy.obligations import FirstReceipt, has_demands, read_first
from chio_sidecar.policy.rules import REVOKED_POLICY_HASH, Refused, Rule
from chio_sidecar.records.observed import METADATA as ENFORCEMENT
from chio_sidecar.service.evaluate_request import EvaluateRequest
from chio_sidecar.service.receipts import make_receipt, route_selection
from chio_sidecar.service.revocation import AuthorityUnavailable, revocable
from chio_sidecar.service.state import SidecarState
from chio_sidecar.store import (
    AlreadyRequested,
    AppendOutcome,
    ApprovalRefused,
    ApprovalRequest,
    ApprovalUse,
    BudgetExceeded,
    Conflict,
    Exhausted,
    NewReceipt,
    Revoked,
    Stored,
    StoreUnavailable,
    TooManyWaiting,
)
from chio_sidecar.store.issuers import is_issuer_name

_BUSY_STATUS = 503
_NO_ANSWER_STATUS = 500  # wire protocol, section 3.1
_LONGEST_ENFORCEMENT = 200
_STATED = ("mode", "requires", "lacks", "refused", "framework", "view")


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A durable receipt.

    Attributes:
        receipt: its JSON object.
        text: the same as it is stored.
        signed: what was signed for it now; None if it was found in the store.
    """

    receipt: dict[str, Any]
    text: str
    signed: Signed | None


class Evaluation:
    """Evaluates requests for one sidecar.

    Args:
        sidecar: its key, store, engine and clock.
    """

    def __init__(self, sidecar: SidecarState) -> None:
        self._sidecar = sidecar

    async def evaluate(self, call: EvaluateRequest) -> Evaluated | Conflict:
        """Return the durable receipt of a request, or the conflict with an earlier request of the same id.

        Raises:
            StoreUnavailable: nothing was stored, so there is no decision.
            InvalidDocument: the receipt cannot be signed.
        """
        sidecar, request = self._sidecar, call.request
        # An authority may sign with a new key at any time: no restart must be necessary.
        if isinstance(call.token, CapabilityToken):
            await sidecar.refresh_issuers(call.token.issuer)
        # Without demands it makes no difference whether this is the first evaluation of the request.
        first: FirstReceipt = None
        if request.further_to is not None and has_demands(request, sidecar.routes.match(request.method, request.path)):
            stored = await sidecar.store.get(request.further_to)
            first = read_first(request.further_to, stored, sidecar.key.public_hex)
        decision = sidecar.engine.decide(request, call.token, sidecar.now(), first)

        # The trust service knows revocations that this store does not have.
        outcome: Evaluated | AppendOutcome | None = None
        if decision.capability is not None and sidecar.revocations is not None:
            try:
                revoked = await sidecar.revocations.first_revoked(revocable(decision.capability))
                outcome = None if revoked is None else Revoked(revoked)
            except AuthorityUnavailable:
                decision = refuse(decision.route, Refused(Rule.AUTHORITY_UNAVAILABLE))
        if outcome is None:
            outcome = await self._store_decision(call, decision)
        # If nothing was stored, store what follows from that: a receipt without conditions, which the store must take.
        if not isinstance(outcome, Evaluated | Conflict):
            outcome = await self._append(call, self._resolved(call, decision, outcome))
        if isinstance(outcome, Evaluated | Conflict):
            return outcome
        raise StoreUnavailable("the store refused a receipt without conditions")

    async def _store_decision(self, call: EvaluateRequest, decision: Decision) -> Evaluated | AppendOutcome:
        """Store the receipt of a decision if its conditions hold."""
        sidecar, obligations = self._sidecar, decision.obligations
        if decision.intent is not None:
            policy_hash, approvers = sidecar.routes.policy_hash, sidecar.engine.trusted_approvers
            obligations = (approval_request(decision.intent, policy_hash, approvers, sidecar.now()),)
        approval_ids = [one.approval_id for one in obligations if isinstance(one, ApprovalUse | ApprovalRequest)]
        if decision.capability is not None:
            unless_revoked = revocable(decision.capability)
        else:
            unless_revoked = () if call.capability_id is None else (call.capability_id,)
        return await self._append(
            call,
            self._body(call, decision, approval_ids[0] if approval_ids else None),
            unless_revoked=unless_revoked,
            invocation=decision.invocation,
            obligations=obligations,
        )

    async def _append(
        self, call: EvaluateRequest, body: dict[str, Any], **conditions: Any
    ) -> Evaluated | AppendOutcome:
        receipt, text, signed = make_receipt(self._sidecar.key, body)
        outcome = await self._sidecar.store.append(
            NewReceipt(
                receipt_id=receipt["id"],
                request_id=call.request.request_id,
                fingerprint=call.fingerprint,
                receipt_json=text,
                **conditions,
            )
        )
        if not isinstance(outcome, Stored):
            return outcome
        if outcome.fresh:
            return Evaluated(receipt, outcome.receipt_json, signed)
        return Evaluated(parse_json(outcome.receipt_json), outcome.receipt_json, None)

    def _resolved(
        self, call: EvaluateRequest, decision: Decision, obstacle: Evaluated | AppendOutcome
    ) -> dict[str, Any]:
        """Return the body of the receipt that is stored after a check of store or trust service failed."""
        match obstacle:
            case Revoked(name) if name == call.capability_id:
                return self._revoked_body(call, name)
            case Revoked(name) if is_issuer_name(name):
                return self._body(call, refuse(decision.route, Refused(Rule.ISSUER_UNTRUSTED)))
            case Revoked(name):
                return self._body(call, refuse(decision.route, Refused(Rule.ANCESTOR_REVOKED, id=name)))
            case Exhausted(invocation):
                tool, server = call.request.tool_name, call.request.tool_server
                refused = Refused(Rule.EXHAUSTED, limit=invocation.limit, tool=tool, server=server)
                return self._body(call, refuse(decision.route, refused))
            case BudgetExceeded():
                return self._body(call, refuse_obligation(decision, budget_refusal(obstacle)))
            case TooManyWaiting():
                found = refuse_obligation(decision, approval_refusal(obstacle), status=_BUSY_STATUS)
                return self._body(call, found)
            case AlreadyRequested(approval_id, denied=True):
                refused = Refused(Rule.APPROVAL_DENIED, id=approval_id)
                return self._body(call, refuse_obligation(decision, refused), approval_id)
            case AlreadyRequested(approval_id) | ApprovalRefused(approval_id, "waiting"):
                found = wait(decision, f"approval {approval_id} is waiting for an answer")
                return self._body(call, found, approval_id)
            case ApprovalRefused():
                return self._body(call, refuse_obligation(decision, approval_refusal(obstacle)))
        raise StoreUnavailable("the store refused a receipt without a reason")

    def _body(self, call: EvaluateRequest, decision: Decision, approval_id: str | None = None) -> dict[str, Any]:
        """Return the receipt of a decision, not signed yet."""
        receipt_id = self._sidecar.ids.new()
        verdict = decision.verdict
        optional = {
            APPROVAL_ID: approval_id,
            FURTHER_TO: decision.further_to,
            RULE: None if decision.rule is None else decision.rule.id,
            ENFORCEMENT: _enforcement(call) or None,
            GRANT: decision.enforced,
        }
        return _request_members(call, str(receipt_id), decision.route.pattern) | {
            "route_pattern": decision.route.pattern,
            "verdict": verdict,
            "evidence": decision.evidence,
            "response_status": 200 if verdict["verdict"] == "allow" else verdict.get("http_status", _NO_ANSWER_STATUS),
            "timestamp": self._sidecar.now(),
            "policy_hash": self._sidecar.routes.policy_hash,
            "capability_id": None if decision.capability is None else decision.capability.id,
            "metadata": {
                "chio_http_status_scope": "decision",
                "chio_kernel_receipt_id": kernel_receipt_id(receipt_id),
                "route_selection": route_selection(call.request.request_id),
                **{name: value for name, value in optional.items() if value is not None},
            },
        }

    def _revoked_body(self, call: EvaluateRequest, capability_id: str) -> dict[str, Any]:
        """Return the receipt about a revoked token, not signed yet.

        Here the client's route and time count, there is no evidence, and the metadata are fixed (wire protocol,
        section 1.7).
        """
        request, enforcement = call.request, _enforcement(call)
        return _request_members(call, str(self._sidecar.ids.new()), request.route_pattern) | {
            "route_pattern": request.route_pattern or request.path,
            "verdict": deny(Rule.REVOKED, Rule.REVOKED.text),
            "response_status": DENIED_STATUS,
            "timestamp": request.timestamp,
            "policy_hash": REVOKED_POLICY_HASH,
            "capability_id": capability_id,
            "metadata": {"chio_http_status_scope": "decision", **({ENFORCEMENT: enforcement} if enforcement else {})},
        }


def _enforcement(call: EvaluateRequest) -> dict[str, str]:
    """Return what an application that only observes has stated about that, and its own template of the route."""
    request, stated = call.request, call.request.enforcement
    if stated is None:
        return {}
    found = {name: stated[name][:_LONGEST_ENFORCEMENT] for name in _STATED if isinstance(stated.get(name), str)}
    if found.get("mode") != "observe":
        return found
    route = {"route": request.route_pattern[:_LONGEST_ENFORCEMENT]} if request.route_pattern != request.path else {}
    return found | route | ({"size": str(request.body_length)} if "refused" in found else {})


def _request_members(call: EvaluateRequest, receipt_id: str, hashed_pattern: str) -> dict[str, Any]:
    request = call.request
    return {
        "id": receipt_id,
        "request_id": request.request_id,
        "method": request.method,
        "caller_identity_hash": request.caller.identity_hash(),
        "session_id": request.session_id,
        "content_hash": content_hash(request.method, hashed_pattern, request.path, request.query, request.body_hash),
    }
