"""Engine: how a test's sidecar decides, by what the test arranged and by the rules of a real sidecar.

`Engine` follows the rules of a sidecar (wire protocol, sections 1.6 and 6.3): a route needs a valid capability if its
document says so, else if its method is not GET, HEAD or OPTIONS, and the capability must grant what the route requires.
Tokens are verified as always; the sidecar's own key is the only authority. Approvals and budgets follow
`chio_core.models.demands`, whose evidence the client reads.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.capabilities import (
    CapabilityRejected,
    ConstraintError,
    issue_capability,
    matching_grants,
    verify_capability,
    verify_token_chain,
)
from chio_core.capabilities.restrictions import (
    GRANT,
    Enforced,
    NotEnforced,
    shared_costs,
    shared_uses,
    statement,
    usable_grant,
    void_scope,
)
from chio_core.capabilities.scope import is_of_another, without_holder
from chio_core.errors import ConfigurationError
from chio_core.models import demands as texts
from chio_core.models.capability import CapabilityToken, Constraint, ToolGrant
from chio_core.models.demands import (
    APPROVAL_GUARD,
    BUDGET_GUARD,
    CAPABILITY_GUARD,
    POLICY_GUARD,
    ApprovalDemand,
    BudgetDemand,
    approval_evidence,
    approval_from,
    budget_evidence,
    budget_from,
)
from chio_core.signing import SigningKey
from chio_core.testing.behaviours import Behaviour, Reply
from chio_core.testing.connect import Documents
from chio_core.testing.exchange import ALLOW, DECISION_METADATA, EvaluateRequest, compact

STRANGER = SigningKey(bytes([0x77]) * 32)
"""An authority that no sidecar trusts."""

SUBJECT = "0" * 64
"""The subject of every token made here; presenting a token needs no proof of it."""

_INTENT = (
    "method", "route_pattern", "path", "query", "body_hash", "tool_server", "tool_name", "arguments", "governed_intent",
)  # fmt: skip


class Refused(Exception):
    """A request that the engine denies.

    Args:
        reason: the verdict's reason.
        guard: the guard that denies.
        details: of the evidence; the reason by default. None: the receipt has no evidence.

    Attributes:
        capability_id: as the receipt states it.
        before: evidence of the guards that allowed.
        approval_id: the pending approval if the request only waits for an operator.
    """

    def __init__(self, reason: str, guard: str = CAPABILITY_GUARD, *, details: str | None = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.guard = guard
        self.details = reason if details == "" else details
        self.capability_id: str | None = None
        self.before: list[dict[str, Any]] = []
        self.approval_id: str | None = None


@dataclass(slots=True)
class Approval:
    """An approval that a request needs.

    Attributes:
        id: value of the `X-Chio-Approval` header in the repeated request.
        request: the evaluate request that needed it.
        demand: amount, threshold and currency.
        intent: hash of everything that is approved; a request with another hash is refused.
        state: `pending`, then the operator's response, then `used`.
    """

    id: str
    request: EvaluateRequest
    demand: ApprovalDemand
    intent: str
    state: Literal["pending", "approved", "denied", "used"] = "pending"


Limit = tuple[tuple[Any, ...], int]
"""The key of what is counted, and its limit."""


@dataclass(frozen=True, slots=True)
class _Used:
    """The capability that a request uses.

    Attributes:
        index, grant: of the tool; None if the request names no tool.
        uses, costs: what is counted, see `chio_core.capabilities.restrictions`.
    """

    capability_id: str | None = None
    index: int = 0
    grant: ToolGrant | None = None
    uses: tuple[Limit, ...] = ()
    costs: tuple[Limit, ...] = ()


class Engine:
    """Decides, and keeps revocations, uses of grants, approvals and budgets in memory.

    Attributes:
        documents: what the applications state of their routes.
        approvals: every approval that was needed so far, in order.
        behaviour: this engine as a behaviour.
    """

    def __init__(self) -> None:
        self.documents = Documents()
        self.approvals: list[Approval] = []
        self.behaviour = Behaviour("policy", "Decides by method, capability, approval and budget.", self.reply)
        self._lock = threading.Lock()
        self._revoked: set[str] = set()
        self._uses: dict[tuple[Any, ...], int] = {}
        self._spent: dict[tuple[Any, ...], tuple[int, int]] = {}

    def revoke(self, capability_id: str) -> None:
        """Refuse this capability from now on."""
        self._revoked.add(capability_id)

    def respond(self, approval_id: str | None, state: Literal["approved", "denied"]) -> Approval:
        """Respond to a pending approval in the operator's place.

        Args:
            approval_id: None for the newest.

        Raises:
            ConfigurationError: no approval with this id is pending.
        """
        waiting = [one for one in self.approvals if one.state == "pending" and approval_id in (None, one.id)]
        if not waiting:
            raise ConfigurationError("no request waits for an approval" + (f" {approval_id}" if approval_id else ""))
        waiting[-1].state = state
        return waiting[-1]

    def reply(self, request: EvaluateRequest) -> Reply:
        """Return the response to a request, with a receipt of the decision."""
        try:
            with self._lock:
                used, evidence = self._decide(request)
        except Refused as no:
            refusal = {"guard_name": no.guard, "verdict": False, "details": no.details}
            stated: dict[str, Any] = {
                "capability_id": no.capability_id,
                "evidence": None if no.details is None else [*no.before, refusal],
            }
            if no.approval_id is None:
                verdict: Any = {"verdict": "deny", "reason": no.reason, "guard": no.guard, "http_status": 403}
                verdict = request.hinted(verdict) if no.guard == CAPABILITY_GUARD else verdict
                return Reply(request.response_bytes(verdict, **stated))
            receipt = request.receipt({"verdict": "incomplete", "reason": no.reason}, **stated)
            document = {
                "error": "chio_approval_required",
                "message": no.reason,
                "kernel_receipt_id": receipt["id"],
                "approval_id": no.approval_id,
                "resume_path": f"/approvals/{no.approval_id}/respond",
            }
            return Reply(compact(document), 409, kept=receipt)
        except (KeyError, TypeError, ValueError) as exc:
            message = f"invalid ChioHttpRequest payload: {type(exc).__name__}"
            return Reply(compact({"error": "chio_bad_request", "message": message}), 400)
        enforced = None if used.grant is None else statement(used.grant, used.index)
        metadata = DECISION_METADATA if enforced is None else {**DECISION_METADATA, GRANT: enforced}
        # The application refuses it if its route requires the capability.
        verdict = request.hinted(ALLOW) if request.requires and used.capability_id is None else ALLOW
        known = {"capability_id": used.capability_id, "evidence": evidence, "metadata": metadata}
        return Reply(request.response_bytes(verdict, **known))

    def _decide(self, request: EvaluateRequest) -> tuple[_Used, list[dict[str, Any]]]:
        """Return the capability that an allow uses, and its evidence, or raise `Refused`."""
        server, tool = request.document.get("tool_server"), request.document.get("tool_name")
        if (server is None) != (tool is None):
            raise Refused(texts.BOTH_TOOL_FIELDS)
        used = _Used()
        if request.capability_text is not None:
            now = int(request.now)
            try:
                token = verify_capability(request.capability_text, trusted_issuers=[request.key.public_hex], now=now)
                verify_token_chain(token)
                used = self._used_grant(request, token, server, tool)
            except (CapabilityRejected, ConstraintError, NotEnforced) as exc:
                raise Refused(exc.reason) from None
            if request.document.get("capability_id") not in (None, token.id):
                raise Refused(texts.OTHER_CAPABILITY)
            if token.id in self._revoked:
                revoked = Refused(texts.REVOKED, "CapabilityRevocation", details=None)
                revoked.capability_id = token.id
                raise revoked
        if not self.documents.need_capability(request):
            evidence = [_evidence(POLICY_GUARD, texts.SAFE_EVIDENCE)]
        elif used.capability_id is not None:
            evidence = [_evidence(CAPABILITY_GUARD, texts.CAPABILITY_EVIDENCE)]
        else:
            raise Refused(texts.NO_CAPABILITY, details=texts.NO_CAPABILITY_EVIDENCE)
        try:
            evidence += self._demands_met(request, used)
        except Refused as no:
            no.capability_id, no.before = used.capability_id, evidence
            raise
        for key, _ in used.uses:
            self._uses[key] = self._uses.get(key, 0) + 1
        return used, evidence

    def _used_grant(
        self, request: EvaluateRequest, token: CapabilityToken, server: str | None, tool: str | None
    ) -> _Used:
        """Return the grant that a request uses, with what is counted for it, or raise `Refused`."""
        members = request.document
        if is_of_another(token, request.caller):
            raise Refused(texts.OTHER_HOLDER)
        if server is None or tool is None:
            if self.documents.need_capability(request) and (void := void_scope(token)):
                raise NotEnforced(void)
            return _Used(token.id)
        model, arguments = members.get("model_metadata"), without_holder(members.get("arguments"), token)
        matching = matching_grants(token, server, tool, arguments, model_metadata=model, holder=request.caller.holder)
        if not matching:
            raise Refused(texts.NOT_GRANTED.format(tool=tool, server=server))
        intent = members.get("governed_intent")
        threshold = None if intent is None else approval_from(intent).threshold
        index = usable_grant(token, matching, server, tool, Enforced(members.get("budget") is not None, threshold))
        grant = token.scope.grants[index]
        uses: list[Limit] = [] if grant.max_invocations is None else [((token.id, index), grant.max_invocations)]
        uses += [(one.account, one.limit) for one in shared_uses(token, index, server, tool)]
        for key, limit in uses:
            if self._uses.get(key, 0) >= limit:
                raise Refused(texts.EXHAUSTED.format(limit=limit, tool=tool, server=server))
        total = grant.max_total_cost
        costs: list[Limit] = [] if total is None else [((token.id, index), total.units)]
        costs += [(one.account, one.limit) for one in shared_costs(token, index, server, tool)]
        return _Used(token.id, index, grant, tuple(uses), tuple(costs))

    def _demands_met(self, request: EvaluateRequest, used: _Used) -> list[dict[str, Any]]:
        """Use the approval and charge the budget of a request; return the evidence of it, or raise `Refused`."""
        intent, limits = request.document.get("governed_intent"), request.document.get("budget")
        evidence: list[dict[str, Any]] = []
        approval: Approval | None = None
        if intent is not None:
            demand = approval_from(intent)
            approval = self._approval(request, demand, used.capability_id) if demand.needed else None
            how = "below it" if approval is None else f"approved as {approval.id}"
            evidence.append(_evidence(APPROVAL_GUARD, approval_evidence(demand) + how))
        if limits is not None:
            budget = budget_from(limits)
            # The first budget of a route uses the route's account; a further one has its own, known by its limits.
            each, most = budget.max_cost_per_invocation, budget.max_total_cost
            which = (budget.max_invocations, each, most) if request.document.get("further_to") is not None else None
            holder = used.capability_id or request.caller_hash()
            account = (holder, request.method, request.route, budget.currency, which)
            invocations, total = self._spent.get(account, (0, 0))
            cost, currency, exceeded = f"cost {budget.cost} {budget.currency}", budget.currency, None
            if each is not None and budget.cost > each:
                exceeded = f"{cost} is above {each} {currency} for one invocation of"
            elif budget.max_invocations is not None and invocations >= budget.max_invocations:
                exceeded = f"no invocation left of {budget.max_invocations} for"
            elif most is not None and total + budget.cost > most:
                exceeded = f"{cost}, and {most - total} {currency} are left of {most} {currency} for"
            else:
                exceeded = self._over_grant(budget, used)
            if exceeded is not None:
                raise Refused(f"budget exceeded: {exceeded} {request.method} {request.route}", BUDGET_GUARD)
            total += budget.cost
            for key in (account, *(key for key, _ in used.costs)):
                count, spent = self._spent.get(key, (0, 0))
                self._spent[key] = (count + 1, spent + budget.cost)
            evidence.append(_evidence(BUDGET_GUARD, f"{budget_evidence(budget)}spent {total}"))
        if approval is not None:
            approval.state = "used"
        return evidence

    def _over_grant(self, budget: BudgetDemand, used: _Used) -> str | None:
        """Return how a cost exceeds what the used grant, or a capability that it comes from, may cost."""
        if used.grant is None or not budget.cost:
            return None
        stated = [one for one in (used.grant.max_cost_per_invocation, used.grant.max_total_cost) if one is not None]
        left = [one.units if one.currency == budget.currency else 0 for one in stated]
        left += [limit - self._spent.get(key, (0, 0))[1] for key, limit in used.costs]
        if budget.cost <= min(left, default=budget.cost):
            return None
        return f"cost {budget.cost} {budget.currency}, and {min(left)} {budget.currency} are left of the grant for"

    def _approval(self, request: EvaluateRequest, demand: ApprovalDemand, capability_id: str | None) -> Approval:
        content = {name: request.document.get(name) for name in _INTENT}
        caller = request.caller_hash()
        intent = sha256_hex(canonical_json({**content, "caller": caller, "capability": capability_id}))
        presented = request.document.get("approval_token")
        if presented is None:
            waiting = next((one for one in self.approvals if one.intent == intent and one.state == "pending"), None)
            if waiting is None:
                waiting = Approval(f"approval-{len(self.approvals) + 1}", request, demand, intent)
                self.approvals.append(waiting)
            refused = Refused(texts.NEEDS_APPROVAL, APPROVAL_GUARD)
            refused.approval_id = waiting.id
            raise refused
        # Tokens that operators sign are for sidecars with approvers; here only the id of an approval counts.
        presented_id = presented if isinstance(presented, str) else "as a token"
        found = next((one for one in self.approvals if one.id == presented_id), None)
        if found is None:
            why = "is not known"
        elif found.intent != intent:
            why = "is for another request"
        elif found.state != "approved":
            why = {"pending": "is pending", "denied": "was denied", "used": "was used already"}[found.state]
        else:
            return found
        raise Refused(f"approval {presented_id} {why}", APPROVAL_GUARD)


def _evidence(guard: str, details: str) -> dict[str, Any]:
    return {"guard_name": guard, "verdict": True, "details": details}


def grant_of(
    server: str,
    tool: str,
    operations: Sequence[str],
    constraints: Sequence[Constraint | Mapping[str, Any]],
    max_invocations: int | None,
) -> dict[str, Any]:
    """Return a grant as a token has it."""
    grant: dict[str, Any] = {"server_id": server, "tool_name": tool, "operations": list(operations)}
    if constraints:
        grant["constraints"] = [one.to_wire() if isinstance(one, Constraint) else dict(one) for one in constraints]
    return grant if max_invocations is None else grant | {"max_invocations": max_invocations}


def issue(key: SigningKey, grant: Mapping[str, Any], ttl: int, now: int) -> str:
    """Issue a token with one grant; return it as one line of ASCII JSON.

    Args:
        ttl: seconds from now to its end; 0 or less for one that has expired.
        now: seconds since 1970.

    Raises:
        InvalidDocument: the grant is malformed.
    """
    # An expired token has a lifetime too, so it is issued earlier.
    lifetime = ttl if ttl > 0 else 3600
    scope = {"grants": [dict(grant)]}
    token = issue_capability(key, subject=SUBJECT, scope=scope, ttl_seconds=lifetime, now=now + ttl - lifetime)
    return token.to_header()
