"""The decision, without any I/O, from a request, a token and a time.

The order is that of wire protocol, section 1.6, then what this sidecar checks beyond it:

1. R1: both tool fields or none.
2. R2 to R5: the token can be read, a trusted issuer signed it, and it is valid now. Beyond the protocol: it states no
   other holder than the caller (`chio_core.capabilities.scope`).
3. R6, R6x: it grants the tool, if the request names one.
4. R7: it is the token that the request names.
5. Beyond the protocol's April state: its delegation chain holds, and every restriction of the grant is enforced for
   this request (`chio_core.capabilities.restrictions`).
6. R8: the policy of the route. Where any valid capability is enough, one of its grants must not be void.
7. Approval and budget, where application or document demand them (`obligations`); those of the document once for a
   request, however many evaluations it takes.

Revocations, the number of invocations, accounts and approvals need a store. The decision says what the store must
check in the transaction that keeps the receipt (`capability`, `invocation`, `obligations`); `refuse`,
`refuse_obligation` and `wait` make the decision that follows when a check fails there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from chio_core.capabilities import (
    DEFAULT_MAX_DEPTH,
    CapabilityRejected,
    ConstraintError,
    matching_grants,
    verify_capability,
    verify_token_chain,
)
from chio_core.capabilities.restrictions import NotEnforced, shared_uses, statement, usable_grant, void_scope
from chio_core.capabilities.scope import is_of_another, without_holder
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import (
    APPROVAL_GUARD,
    CAPABILITY_EVIDENCE,
    CAPABILITY_GUARD,
    NO_CAPABILITY_EVIDENCE,
    POLICY_GUARD,
    SAFE_EVIDENCE,
)
from chio_core.models.request import ChioHttpRequest
from chio_sidecar.policy.approvals import Intent
from chio_sidecar.policy.budgets import shared_index
from chio_sidecar.policy.obligations import (
    AllowedRequest,
    FirstReceipt,
    as_follow_up,
    check_obligations,
    enforced_for,
    has_demands,
)
from chio_sidecar.policy.routes import SESSION_ALLOW, RouteRule, RouteTable
from chio_sidecar.policy.rules import HINTS, Refused, Rule
from chio_sidecar.store import Invocation, Obligation

DENIED_STATUS = 403

_RESERVED = ("approval_tokens", "threshold_approval_proposal", "supplemental_authorization")
"""Members of newer requests that state further authority (wire protocol, section 1.1): this sidecar cannot check it."""

PresentedToken = CapabilityToken | CapabilityRejected | None
"""The token of a request, why it cannot be read, or None."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a receipt records.

    Attributes:
        verdict: the protocol's Verdict as a JSON object.
        evidence: the GuardEvidence objects.
        route: the route.
        rule: the rule that refused, or that lets the request wait; None for an allow.
        capability: the token, if it is valid.
        enforced: the restrictions of its grant that an allow has enforced, see `restrictions.GRANT`.
        invocation: the use of a limited grant that an allow spends.
        obligations: approvals and budgets that the store must check and record.
        intent: what a person has to approve; only with the verdict `incomplete`.
        further_to: id of the receipt by which the document's demands have been met already.
    """

    verdict: dict[str, Any]
    evidence: list[dict[str, Any]]
    route: RouteRule
    rule: Rule | None = None
    capability: CapabilityToken | None = None
    enforced: dict[str, Any] | None = None
    invocation: Invocation | None = None
    obligations: tuple[Obligation, ...] = ()
    intent: Intent | None = None
    further_to: str | None = None


class Engine:
    """Decides requests.

    Args:
        routes: the route table.
        trusted_issuers: public keys (hex) whose capabilities count, the sidecar's own included.
        trusted_approvers: public keys (hex) that may approve, the sidecar's own included.
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

    def decide(self, request: ChioHttpRequest, token: PresentedToken, now: int, first: FirstReceipt = None) -> Decision:
        """Decide one request.

        Args:
            request: as the client described it.
            token: the token that it presented.
            now: whole seconds since 1970, by this sidecar's clock.
            first: the receipt that the request names as that of its first evaluation.

        Raises:
            ValueError: a demand of the request is malformed; `read_evaluate_request` refuses these before.
        """
        route = self.routes.match(request.method, request.path)
        opens = route.policy != SESSION_ALLOW
        try:
            capability, grant = self._verify(request, token, route, first, now)
            if capability is not None and grant is None and opens and (void := void_scope(capability)):
                raise NotEnforced(void)
        except Refused as exc:
            return refuse(route, exc)
        except CapabilityRejected as exc:
            return refuse(route, Refused(Rule.by_id(exc.rule), exc.reason))
        except ConstraintError as exc:
            return refuse(route, Refused(Rule.BAD_PATTERN, exc.reason))
        except NotEnforced as exc:
            return refuse(route, Refused(Rule.NOT_ENFORCED, exc.reason))
        if not opens:
            evidence = _evidence(POLICY_GUARD, True, SAFE_EVIDENCE)
        elif capability is not None:
            evidence = _evidence(CAPABILITY_GUARD, True, CAPABILITY_EVIDENCE)
        else:
            return replace(
                refuse(route, Refused(Rule.NO_CAPABILITY)),
                evidence=_evidence(CAPABILITY_GUARD, False, NO_CAPABILITY_EVIDENCE),
            )
        decision = Decision({"verdict": "allow"}, evidence, route, capability=capability)
        if capability is not None and grant is not None:
            used, tool = capability.scope.grants[grant], (str(request.tool_server), str(request.tool_name))
            limit = used.max_invocations
            decision = replace(
                decision,
                enforced=statement(used, grant),
                invocation=None if limit is None else Invocation(capability.id, grant, limit),
                obligations=tuple(
                    Invocation(one.capability_id, shared_index(one.server, one.tool), one.limit)
                    for one in shared_uses(capability, grant, *tool)
                ),
            )
        if not has_demands(request, route):
            return decision
        return self._oblige(
            AllowedRequest(request, route, capability, grant, self.trusted_approvers, now), decision, first
        )

    def _verify(
        self, request: ChioHttpRequest, token: PresentedToken, route: RouteRule, first: FirstReceipt, now: int
    ) -> tuple[CapabilityToken | None, int | None]:
        """Return the valid token, if there is one, and the index of the grant that is used for the tool."""
        for member in _RESERVED:
            if (request.model_extra or {}).get(member) is not None:
                raise Refused(Rule.UNSUPPORTED, field=member)
        server, tool = request.tool_server, request.tool_name
        if (server is None) != (tool is None):
            raise Refused(Rule.BOTH_TOOL_FIELDS)
        if token is None:
            return None, None
        if isinstance(token, CapabilityRejected):
            raise token
        capability = verify_capability(
            token,
            trusted_issuers=self.trusted_issuers,
            now=now,
            accept_schema_form=self._accept_schema_form,
            check_delegation=False,  # comes last in the order
        )
        if is_of_another(capability, request.caller):
            raise Refused(Rule.OTHER_HOLDER)
        matching = []
        if server is not None and tool is not None:
            matching = matching_grants(
                capability,
                server,
                tool,
                without_holder(request.arguments, capability),
                model_metadata=request.model_metadata,
                holder=request.caller.holder,
            )
            if not matching:
                raise Refused(Rule.NOT_GRANTED, tool=tool, server=server)
        if request.capability_id not in (None, capability.id):
            raise Refused(Rule.OTHER_CAPABILITY)
        verify_token_chain(capability, max_depth=DEFAULT_MAX_DEPTH, accept_newer=self._accept_schema_form)
        if server is None or tool is None:
            return capability, None
        enforced = enforced_for(request, route, follow_up=first is not None)
        return capability, usable_grant(capability, matching, server, tool, enforced)

    def _oblige(self, allowed: AllowedRequest, decision: Decision, first: FirstReceipt) -> Decision:
        """Return the decision about an allowed request whose application or document demand more."""
        try:
            if first is not None:
                # The first evaluation has met what the document demands.
                allowed, receipt_id = as_follow_up(allowed, first, self.routes.policy_hash)
                decision = replace(decision, further_to=receipt_id)
            found = check_obligations(allowed)
        except Refused as exc:
            return refuse_obligation(decision, exc)
        if found.waits is not None:
            return wait(decision, found.waits, found.intent)
        obligations = (*decision.obligations, *found.obligations)
        return replace(decision, evidence=decision.evidence + found.evidence, obligations=obligations)


def refuse(route: RouteRule, refused: Refused) -> Decision:
    """Return the deny of a request whose token does not count."""
    return Decision(
        deny(refused.rule, refused.reason),
        _evidence(CAPABILITY_GUARD, False, refused.reason),
        route,
        refused.rule,
    )


def refuse_obligation(decision: Decision, refused: Refused, *, status: int = DENIED_STATUS) -> Decision:
    """Return the deny of a request whose token is fine, because an approval or budget refuses it.

    Args:
        decision: what would have been recorded.
        refused: by which rule.
        status: HTTP status that the application should answer with.
    """
    guard = refused.rule.guard
    return replace(
        decision,
        verdict=deny(refused.rule, refused.reason, status=status, hint=HINTS[guard]),
        evidence=decision.evidence[:1] + _evidence(guard, False, refused.reason),
        rule=refused.rule,
        enforced=None,
        invocation=None,
        obligations=(),
        intent=None,
    )


def wait(decision: Decision, details: str, intent: Intent | None = None) -> Decision:
    """Return the decision while no person has approved the request.

    Args:
        decision: what would have been recorded.
        details: of the evidence.
        intent: what a person has to approve, if the approval has to be requested.
    """
    return replace(
        decision,
        verdict={"verdict": "incomplete", "reason": Rule.APPROVAL_NEEDED.text},
        evidence=decision.evidence[:1] + _evidence(APPROVAL_GUARD, False, details),
        rule=Rule.APPROVAL_NEEDED,
        enforced=None,
        invocation=None,
        obligations=(),
        intent=intent,
    )


def deny(rule: Rule, reason: str, *, status: int = DENIED_STATUS, hint: str | None = None) -> dict[str, Any]:
    """Return the verdict of a deny as a JSON object; `hint` says what the caller can do."""
    verdict = {"verdict": "deny", "reason": reason, "guard": rule.guard, "http_status": status}
    return verdict if hint is None else verdict | {"details": {"hint": hint}}


def _evidence(guard: str, verdict: bool, details: str) -> list[dict[str, Any]]:
    return [{"guard_name": guard, "verdict": verdict, "details": details}]
