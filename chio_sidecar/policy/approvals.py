"""Approvals, without any I/O: when a person has to answer, what exactly is asked, and what a request presents.

What is approved is the intent: a document of everything that makes this request this request. Its SHA-256 binds
the answer, so an approval opens nothing but a repetition of the same request, and that once.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final

from chio_core.canonical import canonical_json, compact_json, sha256_hex
from chio_core.models.capability import CapabilityToken
from chio_core.models.demands import ApprovalDemand, approval_evidence
from chio_core.models.request import ChioHttpRequest, content_hash
from chio_sidecar.policy.approval_tokens import LONGEST_LIFE, NOBODY, TokenRejected, check_token, read_token
from chio_sidecar.policy.routes import RouteRule
from chio_sidecar.store import ApprovalRefused, ApprovalUse, ApprovalWait, TooManyWaiting

"""Reason of the verdict `incomplete`, and message of the answer 409 (wire protocol, section 1.8)."""

MAX_OPEN: Final = 1000
"""Questions that may wait for a person at once."""

MAX_OPEN_EACH: Final = 100
"""Of these, by one capability, or by one caller without a capability."""

DENIED: Final = "approval {id} was denied"
TOO_MANY: Final = "{limit} approvals are waiting already; try again when they are answered or have expired"
TOO_MANY_OWN: Final = "{limit} approvals of this caller are waiting already; try again when they are answered"

_WHY = {
    "unknown": "approval {id} is not known",
    "another request": "approval {id} is for another request",
    "denied": DENIED,
    "expired": "approval {id} has expired",
    "used": "approval {id} was used already",
    "replayed": "the token of approval {id} answered another question already",
}

_LONGEST_ID = 128
_LONGEST_SHOWN = 4096
_LONGEST_SUBJECT = 200


@dataclass(frozen=True, slots=True)
class Intent:
    """What a person is asked to approve.

    Attributes:
        document: everything that the approval is bound to.
        hash: SHA-256 of the document's canonical form, hex.
        subject_key: key of the capability's holder, or `NOBODY`.
        request: the request itself.
        parameter_hash: the content hash of the request, as its receipt has it.
        demand: threshold and amount.
    """

    document: dict[str, Any]
    hash: str
    subject_key: str
    request: ChioHttpRequest
    parameter_hash: str
    demand: ApprovalDemand

    @property
    def requester(self) -> str:
        """Who asks: the capability, or the caller."""
        return str(self.document["capability_id"] or self.document["caller_identity_hash"])


def approval_needed(stated: ApprovalDemand | None, route: ApprovalDemand | None) -> bool:
    """Tell whether a person has to answer; what is stricter counts.

    Args:
        stated: what the application says.
        route: what the document says about the route; it never knows the amount.
    """
    if stated is None:
        return route is not None
    if stated.needed or route is None:
        return stated.needed
    # An amount in another currency cannot be compared, so a person has to look at it.
    return stated.currency != route.currency or stated.amount is None or stated.amount > route.threshold


def strictest_approval(stated: ApprovalDemand | None, route: ApprovalDemand | None) -> ApprovalDemand | None:
    """Return the demand that a person is shown: with the lower threshold, and the amount that the application states.

    Args:
        stated: what the application says.
        route: what the document says about the route.
    """
    if stated is None or route is None:
        return stated or route
    if stated.currency != route.currency:
        return stated
    return replace(stated, threshold=min(stated.threshold, route.threshold))


def intent_of(
    request: ChioHttpRequest, rule: RouteRule, capability: CapabilityToken | None, demand: ApprovalDemand
) -> Intent:
    """Return what is asked about a request.

    Args:
        request: what is to be done.
        rule: its route.
        capability: the valid token, if there is one.
        demand: what is shown and bound as threshold and amount.

    Raises:
        InvalidDocument: the request has no canonical form.
    """
    members: dict[str, Any] = {
        "method": request.method,
        "route_pattern": rule.pattern,
        "path": request.path,
        "query": request.query,
        "body_hash": request.body_hash,
        "caller_identity_hash": request.caller.identity_hash(),
        "capability_id": None if capability is None else capability.id,
        "tool_server": request.tool_server,
        "tool_name": request.tool_name,
        "arguments": request.arguments,
        **demand.to_wire(),
    }
    hashed = content_hash(request.method, rule.pattern, request.path, request.query, request.body_hash)
    document = {name: shown(value) for name, value in members.items()}
    shortened = sorted(name for name, value in members.items() if document[name] is not value)
    if shortened:
        document["shortened"] = shortened  # else a query that reads {"sha256": …} could stand for a very long one
    subject = NOBODY if capability is None else capability.subject
    return Intent(document, intent_hash(document), subject, request, hashed, demand)


def intent_hash(document: Any) -> str:
    """Return the SHA-256 that an approver signs, hex."""
    return sha256_hex(canonical_json(document))


def shown(value: Any) -> Any:
    """Return a value as people and the store get it: of one that is very long only the SHA-256."""
    text = canonical_json(value)
    return value if len(text) <= _LONGEST_SHOWN else {"sha256": sha256_hex(text)}


def new_approval_id() -> str:
    """Return an id that nobody can guess."""
    return f"apr-{uuid.uuid4()}"


def question(intent: Intent, policy_id: str, approvers: Collection[str], now: int) -> ApprovalWait:
    """Return the question about an intent.

    Args:
        intent: what is asked.
        policy_id: hash of the policy that asks.
        approvers: public keys that may answer.
        now: whole seconds since 1970.
    """
    request, approval_id, expires_at = intent.request, new_approval_id(), now + LONGEST_LIFE
    action = f"{request.method} {intent.document['route_pattern']}"
    subject = request.caller.subject[:_LONGEST_SUBJECT]
    document = {
        "approval_id": approval_id,
        "policy_id": policy_id,
        "subject_id": subject,
        "capability_id": intent.document["capability_id"] or "",
        "subject_public_key": intent.subject_key,
        "tool_server": shown(request.tool_server or "http"),
        "tool_name": shown(request.tool_name or action),
        "action": action,
        "parameter_hash": intent.parameter_hash,
        "expires_at": expires_at,
        "created_at": now,
        "summary": _summary(intent, subject),
        "governed_intent": intent.document,
        "governed_intent_hash": intent.hash,
        "trusted_approvers": sorted(approvers),
    }
    return wait_for(document, intent.hash, intent.requester)


def wait_for(document: dict[str, Any], hashed: str, requester: str) -> ApprovalWait:
    """Return the question whose ApprovalRequest (wire protocol, section 7.7) this is."""
    return ApprovalWait(
        approval_id=document["approval_id"],
        intent_hash=hashed,
        requester=requester,
        request_json=compact_json(document),
        created_at=document["created_at"],
        expires_at=document["expires_at"],
        max_open=MAX_OPEN,
        max_open_each=MAX_OPEN_EACH,
    )


def presented(value: Any, intent: Intent, approvers: Collection[str], now: int) -> ApprovalUse:
    """Return the use of the approval that a request presents; a token is checked as far as it goes without a store.

    Args:
        value: the member `approval_token`: an id, or a GovernedApprovalToken object.
        intent: what the request is about.
        approvers: public keys that may approve.
        now: whole seconds since 1970.

    Raises:
        TokenRejected: it cannot be used.
    """
    if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID:
        return ApprovalUse(value, intent.hash, now)
    token = read_token(value)
    check_token(token, approvers=approvers, intent_hash=intent.hash, subject=intent.subject_key, now=now)
    if token.decision == "denied":
        raise TokenRejected(DENIED.format(id=token.request_id[:_LONGEST_ID]))
    return ApprovalUse(token.request_id, intent.hash, now, token.answer(now))


def refused_reason(refused: ApprovalRefused) -> str:
    """Return the exact text of the verdict."""
    return _WHY[refused.why].format(id=refused.approval_id[:_LONGEST_ID])


def too_many_reason(obstacle: TooManyWaiting) -> str:
    """Return the exact text of the verdict."""
    return (TOO_MANY_OWN if obstacle.own else TOO_MANY).format(limit=obstacle.limit)


def _summary(intent: Intent, subject: str) -> str:
    path = intent.request.path[:_LONGEST_SUBJECT]
    return f"{intent.request.method} {path} by {subject}: {approval_evidence(intent.demand).removesuffix(': ')}"
