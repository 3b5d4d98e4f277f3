"""The decision, without any I/O: what a request, a token and a moment in time come to.

The order is that of wire protocol, section 1.6, then what this sidecar checks beyond it:

1. R1: both tool fields or none.
2. R2 to R5: the token can be read, a trusted issuer signed it, and its time has come and not passed.
3. R6, R6x: it grants the tool, when one is named.
4. R7: it is the token that the request names.
5. Beyond the protocol's April state: its delegation chain holds.
6. The policy of the route.
7. Approval and budget, where application or document demand them (see `demands`); those of the document once for a
   request, however many questions it takes (see `further`).

Revocations, the number of invocations, accounts and approvals need a store. The decision says what the store must
check when it keeps the receipt (`capability`, `invocation`, `demands`); `refusal` and `unmet` make the decision that
follows when that fails.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from chio_core.capabilities import (
    DEFAULT_MAX_DEPTH,
    CapabilityRejected,
    ConstraintError,
    match_grant,
    verify_capability,
    verify_delegation_chain,
)
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import (
    APPROVAL_GUARD,
    BOTH_TOOL_FIELDS,
    CAPABILITY_EVIDENCE,
    CAPABILITY_GUARD,
    NEEDS_APPROVAL,
    NO_CAPABILITY,
    NO_CAPABILITY_EVIDENCE,
    NOT_GRANTED,
    OTHER_CAPABILITY,
    POLICY_GUARD,
    SAFE_EVIDENCE,
)
from chio_core.models.receipt import HttpReceipt
from chio_core.models.request import ChioHttpRequest
from chio_sidecar.policy.approvals import Intent
from chio_sidecar.policy.obligations import (
    FURTHER_GUARD,
    HINTS,
    Case,
    First,
    NotFurther,
    check_first,
    has_been_met,
    has_demands,
    judge_demands,
)
from chio_sidecar.policy.routes import SESSION_ALLOW, RouteRule, RouteTable
from chio_sidecar.store import Demand, Invocation

UNSUPPORTED = "HTTP authority projection does not support authorization field {field}"

# Reasons of what is checked beyond the protocol's April state.
ANCESTOR_REVOKED = "presented capability {id} has been revoked"
AUTHORITY_UNAVAILABLE = "revocation authority is unavailable; no operation was dispatched"

DENIED_STATUS = 403

_RESERVED = ("approval_tokens", "threshold_approval_proposal", "supplemental_authorization")
"""Members of newer requests that state further authority, which is not judged here (wire protocol, section 1.1)."""

_HINTS = {**HINTS, FURTHER_GUARD: "repeat the request"}

Presented = CapabilityToken | CapabilityRejected | None
"""The token that came with a request: read, unreadable, or none."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be recorded.

    Attributes:
        verdict: the protocol's Verdict as a JSON object.
        evidence: the GuardEvidence objects.
        rule: the route.
        capability: the token, if it was valid.
        invocation: the use of a limited grant that an allow spends.
        demands: approvals and budgets that the store must judge and record.
        question: what a person has to be asked; set with the verdict `incomplete` only.
        further_to: id of the receipt by which the document's demands have been met already.
    """

    verdict: dict[str, Any]
    evidence: list[dict[str, Any]]
    rule: RouteRule
    capability: CapabilityToken | None = None
    invocation: Invocation | None = None
    demands: tuple[Demand, ...] = ()
    question: Intent | None = None
    further_to: str | None = None


class Engine:
    """Judges requests.

    Args:
        routes: the route table.
        trusted_issuers: public keys (hex) whose capabilities count, the own one included.
        trusted_approvers: public keys (hex) that may approve, the own one included.
        accept_schema_form: also accept capabilities whose signature covers the member `schema`.
    """

    def __init__(
        self,
        routes: RouteTable,
        *,
        trusted_issuers: Collection[str],
        trusted_approvers: Collection[str] = (),
        accept_schema_form: bool = True,
    ) -> None:
        self.routes = routes
        self.trusted_issuers = frozenset(trusted_issuers)
        self.trusted_approvers = frozenset(trusted_approvers)
        self._accept_schema_form = accept_schema_form

    def trust(self, issuers: Collection[str]) -> None:
        """Accept capabilities of further issuers from now on."""
        self.trusted_issuers = self.trusted_issuers | frozenset(issuers)

    def decide(self, request: ChioHttpRequest, token: Presented, now: int, first: First = None) -> Decision:
        """Judge one request.

        Args:
            request: what the client described.
            token: the token that it presented.
            now: whole seconds since 1970, by this sidecar's clock.
            first: what the request names as the receipt of the first question about it.

        Raises:
            ValueError: a demand of the request is malformed; `read_call` lets none of these through.
        """
        rule = self.routes.match(request.method, request.path)
        grant = None
        try:
            _refuse_reserved(request)
            if (request.tool_server is None) != (request.tool_name is None):
                raise _Refused(BOTH_TOOL_FIELDS)
            if token is None:
                decision = _without_token(rule)
            else:
                capability, grant = self._checked(request, token, now)
                decision = _with_token(rule, capability, grant)
        except (_Refused, CapabilityRejected, ConstraintError) as exc:
            return refusal(rule, exc.reason)
        if not has_demands(request, rule) or decision.verdict["verdict"] != "allow":
            return decision
        case = Case(request, rule, decision.capability, grant, self.trusted_approvers, now)
        if first is not None:
            try:
                case, decision = self._further(case, decision, first)
            except NotFurther as exc:
                return unmet(decision, FURTHER_GUARD, exc.reason)
        return _demanding(case, decision)

    def _further(self, case: Case, decision: Decision, first: HttpReceipt | NotFurther) -> tuple[Case, Decision]:
        """Return what is left to judge, and what to record."""
        if not isinstance(first, HttpReceipt):
            raise first
        check_first(first, case.request, case.rule, case.capability, self.routes.policy_hash, case.now)
        left = replace(case, rule=has_been_met(case.rule), further=True)
        return left, replace(decision, further_to=first.id)

    def _checked(
        self, request: ChioHttpRequest, token: CapabilityToken | CapabilityRejected, now: int
    ) -> tuple[CapabilityToken, int | None]:
        """Return the valid token, and the index of the grant that allows the tool."""
        capability = self._verified(token, now)
        grant = _granted(request, capability)
        if request.capability_id not in (None, capability.id):
            raise _Refused(OTHER_CAPABILITY)
        verify_delegation_chain(
            capability.delegation_chain,
            max_depth=DEFAULT_MAX_DEPTH,
            accept_newer=self._accept_schema_form,
        )
        return capability, grant

    def _verified(self, token: CapabilityToken | CapabilityRejected, now: int) -> CapabilityToken:
        if isinstance(token, CapabilityRejected):
            raise token
        return verify_capability(
            token,
            trusted_issuers=self.trusted_issuers,
            now=now,
            accept_schema_form=self._accept_schema_form,
            check_delegation=False,  # comes later in the order
        )


def refusal(rule: RouteRule, reason: str) -> Decision:
    """Return the deny with this reason."""
    return Decision(deny(reason), _evidence(CAPABILITY_GUARD, False, reason), rule)


def unmet(decision: Decision, guard: str, reason: str, *, status: int = DENIED_STATUS) -> Decision:
    """Return the deny of a request whose token is fine, because a demand is not met.

    Args:
        decision: what would have been recorded.
        guard: whose demand it is.
        reason: exact text.
        status: HTTP status that the application should answer with.
    """
    return replace(
        decision,
        verdict=deny(reason, guard, status=status, hint=_HINTS[guard]),
        evidence=decision.evidence[:1] + _evidence(guard, False, reason),
        invocation=None,
        demands=(),
        question=None,
    )


def waiting(decision: Decision, details: str) -> Decision:
    """Return the decision that a person has not answered yet; `details` is what the evidence says."""
    return replace(
        decision,
        verdict=_incomplete(),
        evidence=decision.evidence[:1] + _evidence(APPROVAL_GUARD, False, details),
        invocation=None,
        demands=(),
        question=None,
    )


class _Refused(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _refuse_reserved(request: ChioHttpRequest) -> None:
    for name in _RESERVED:
        if (request.model_extra or {}).get(name) is not None:
            raise _Refused(UNSUPPORTED.format(field=name))


def _granted(request: ChioHttpRequest, capability: CapabilityToken) -> int | None:
    """Return the index of the grant that allows the tool; None when the request names no tool."""
    server, tool = request.tool_server, request.tool_name
    if server is None or tool is None:
        return None
    grant = match_grant(capability, server, tool, request.arguments, model_metadata=request.model_metadata)
    if grant is None:
        raise _Refused(NOT_GRANTED.format(tool=tool, server=server))
    return grant


def _without_token(rule: RouteRule) -> Decision:
    if rule.policy == SESSION_ALLOW:
        return Decision(_allow(), _evidence(POLICY_GUARD, True, SAFE_EVIDENCE), rule)
    return Decision(deny(NO_CAPABILITY), _evidence(CAPABILITY_GUARD, False, NO_CAPABILITY_EVIDENCE), rule)


def _with_token(rule: RouteRule, capability: CapabilityToken, grant: int | None) -> Decision:
    if rule.policy == SESSION_ALLOW:
        evidence = _evidence(POLICY_GUARD, True, SAFE_EVIDENCE)
    else:
        evidence = _evidence(CAPABILITY_GUARD, True, CAPABILITY_EVIDENCE)
    return Decision(_allow(), evidence, rule, capability, _invocation(capability, grant))


def _demanding(case: Case, decision: Decision) -> Decision:
    """Return what becomes of an allow when its demands are judged."""
    findings = judge_demands(case)
    if findings.refusal is not None:
        return unmet(decision, *findings.refusal)
    evidence = decision.evidence + findings.evidence
    if findings.waits:
        question = findings.intent if findings.asks else None
        return replace(decision, verdict=_incomplete(), evidence=evidence, invocation=None, question=question)
    return replace(decision, evidence=evidence, demands=tuple(findings.demands))


def _invocation(capability: CapabilityToken, grant: int | None) -> Invocation | None:
    limit = None if grant is None else capability.scope.grants[grant].max_invocations
    if grant is None or limit is None:
        return None
    return Invocation(capability.id, grant, limit)


def _allow() -> dict[str, Any]:
    return {"verdict": "allow"}


def _incomplete() -> dict[str, Any]:
    return {"verdict": "incomplete", "reason": NEEDS_APPROVAL}


def deny(
    reason: str, guard: str = CAPABILITY_GUARD, *, status: int = DENIED_STATUS, hint: str | None = None
) -> dict[str, Any]:
    """Return the verdict of a deny as a JSON object; `hint` says what the caller can do."""
    verdict = {"verdict": "deny", "reason": reason, "guard": guard, "http_status": status}
    return verdict if hint is None else verdict | {"details": {"hint": hint}}


def _evidence(guard: str, verdict: bool, details: str) -> list[dict[str, Any]]:
    return [{"guard_name": guard, "verdict": verdict, "details": details}]
