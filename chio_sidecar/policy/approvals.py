"""Approvals, without any I/O: when a person has to approve, what exactly, and which approval a request presents.

A person approves an intent: a document of everything that makes this request this request. Its SHA-256 binds the
approval, so that opens nothing but a repetition of the same request, once. The approver signs a GovernedApprovalToken
(wire protocol, section 7.7).
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import ValidationError

from chio_core.canonical import canonical_json, compact_json, sha256_hex
from chio_core.models.base import U64, Text, WireModel
from chio_core.models.capability import CapabilityToken, PublicKey, Signature
from chio_core.models.demands import ApprovalDemand, approval_evidence
from chio_core.models.receipt import explain
from chio_core.models.request import ChioHttpRequest, content_hash
from chio_core.signing import SigningKey, verify_signature
from chio_sidecar.policy.routes import RouteRule
from chio_sidecar.policy.rules import LONGEST_ID, Refused, Rule
from chio_sidecar.store import ApprovalRefused, ApprovalRequest, ApprovalResponse, ApprovalUse, TooManyWaiting

LONGEST_LIFE: Final = 3600
"""Seconds that a token may be valid, and that a request may wait for an approval."""

NOBODY: Final = "0" * 64
"""The subject of an approval without a capability."""

APPROVAL_ID: Final = "chio_approval_id"
"""Member of a receipt's metadata: the approval that the request waits for, or used."""

MAX_OPEN: Final = 1000
"""Requests that may wait for an approval at once."""

MAX_OPEN_EACH: Final = 100
"""Of these, by one capability, or by one caller without a capability."""

_LONGEST_SHOWN = 4096
_LONGEST_SUBJECT = 200
_SIGNED = (
    "id",
    "approver",
    "subject",
    "governed_intent_hash",
    "request_id",
    "issued_at",
    "expires_at",
    "decision",
)


class GovernedApprovalToken(WireModel):
    """A signed approval or denial.

    Attributes:
        subject: key of the capability's holder, or `NOBODY`.
        governed_intent_hash: SHA-256 of the intent, hex.
        request_id: id of the approval.
        issued_at: whole seconds since 1970, the first that counts.
        expires_at: whole seconds since 1970, the first that no longer counts.
    """

    id: Text
    approver: PublicKey
    subject: PublicKey
    governed_intent_hash: Text
    request_id: Text
    issued_at: U64
    expires_at: U64
    decision: Literal["approved", "denied"]
    signature: Signature

    def signed(self) -> bytes:
        """Return the bytes that the signature covers: the protocol's members, without the signature."""
        return canonical_json({name: getattr(self, name) for name in _SIGNED})

    def response(self, now: int, reason: str | None = None) -> ApprovalResponse:
        """Return this token as the store keeps it, given at `now`."""
        document = {name: getattr(self, name) for name in (*_SIGNED, "signature")}
        return ApprovalResponse(
            approval_id=self.request_id,
            outcome=self.decision,
            approver=self.approver,
            token_id=self.id,
            token_json=compact_json(document),
            resolved_at=now,
            expires_at=self.expires_at,
            reason=reason,
        )


def read_token(document: Any) -> GovernedApprovalToken:
    """Read a token.

    Raises:
        Refused: it has another shape.
    """
    try:
        token = GovernedApprovalToken.model_validate(document)
    except ValidationError as exc:
        raise Refused(Rule.APPROVAL_TOKEN_UNREADABLE, why=explain(exc)) from None
    if not 0 < len(token.id) <= LONGEST_ID:
        raise Refused(Rule.APPROVAL_TOKEN_UNREADABLE, why=f"id must have 1 to {LONGEST_ID} characters")
    return token


def check_token(
    token: GovernedApprovalToken, *, approvers: Collection[str], intent_hash: str, subject: str, now: int
) -> None:
    """Return if a token counts for an intent.

    Args:
        token: as it was presented.
        approvers: public keys (hex) that may approve.
        intent_hash: SHA-256 of the intent, hex.
        subject: key of the capability's holder, or `NOBODY`.
        now: whole seconds since 1970.

    Raises:
        Refused: by the first rule that it breaks.
    """
    if token.approver not in approvers:
        raise Refused(Rule.APPROVER_UNTRUSTED)
    if not verify_signature(token.approver, token.signed(), token.signature):
        raise Refused(Rule.APPROVAL_TOKEN_SIGNATURE)
    if token.governed_intent_hash != intent_hash:
        raise Refused(Rule.APPROVAL_TOKEN_OTHER)
    if token.subject != subject:
        raise Refused(Rule.APPROVAL_TOKEN_SUBJECT)
    if token.expires_at - token.issued_at > LONGEST_LIFE:
        raise Refused(Rule.APPROVAL_TOKEN_TOO_LONG, seconds=LONGEST_LIFE)
    if now < token.issued_at:
        raise Refused(Rule.APPROVAL_TOKEN_NOT_YET, issued_at=token.issued_at)
    if now >= token.expires_at:
        raise Refused(Rule.APPROVAL_TOKEN_EXPIRED, expires_at=token.expires_at)


def sign_token(
    key: SigningKey,
    *,
    token_id: str,
    subject: str,
    intent_hash: str,
    approval_id: str,
    decision: Literal["approved", "denied"],
    now: int,
) -> GovernedApprovalToken:
    """Return a signed approval or denial, valid from `now` for `LONGEST_LIFE` seconds."""
    body: dict[str, Any] = {
        "id": token_id,
        "approver": key.public_hex,
        "subject": subject,
        "governed_intent_hash": intent_hash,
        "request_id": approval_id,
        "issued_at": now,
        "expires_at": now + LONGEST_LIFE,
        "decision": decision,
    }
    return GovernedApprovalToken(**body, signature=key.sign(canonical_json(body)))


@dataclass(frozen=True, slots=True)
class Intent:
    """What a person has to approve.

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


def approval_needed(stated: ApprovalDemand | None, route: ApprovalDemand | None) -> bool:
    """Return True if a person has to approve; the stricter demand counts.

    Args:
        stated: the application's demand.
        route: the document's demand for the route; it never knows the amount.
    """
    if stated is None:
        return route is not None
    if stated.needed or route is None:
        return stated.needed
    # Amounts in two currencies cannot be compared, so a person has to decide.
    return stated.currency != route.currency or stated.amount is None or stated.amount > route.threshold


def strictest_approval(stated: ApprovalDemand | None, route: ApprovalDemand | None) -> ApprovalDemand | None:
    """Return the demand that a person sees: the lower threshold, with the amount that the application states.

    Args:
        stated: the application's demand.
        route: the document's demand for the route.
    """
    if stated is None or route is None:
        return stated or route
    if stated.currency != route.currency:
        return stated
    return replace(stated, threshold=min(stated.threshold, route.threshold))


def intent_of(
    request: ChioHttpRequest, route: RouteRule, capability: CapabilityToken | None, demand: ApprovalDemand
) -> Intent:
    """Return what a person has to approve for a request to run.

    Args:
        request: the request.
        route: its route.
        capability: the valid token, if there is one.
        demand: threshold and amount to show and bind.

    Raises:
        InvalidDocument: the request has no canonical form.
    """
    members: dict[str, Any] = {
        "method": request.method,
        "route_pattern": route.pattern,
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
    hashed = content_hash(request.method, route.pattern, request.path, request.query, request.body_hash)
    document = {name: _shortened(value) for name, value in members.items()}
    shortened = sorted(name for name, value in members.items() if document[name] is not value)
    if shortened:
        document["shortened"] = shortened  # else a query that reads {"sha256": …} could pass for a very long one
    subject = NOBODY if capability is None else capability.subject
    return Intent(document, intent_hash(document), subject, request, hashed, demand)


def intent_hash(document: Any) -> str:
    """Return the SHA-256 that an approver signs, hex."""
    return sha256_hex(canonical_json(document))


def _shortened(value: Any) -> Any:
    text = canonical_json(value)
    return value if len(text) <= _LONGEST_SHOWN else {"sha256": sha256_hex(text)}


def new_approval_id() -> str:
    """Return a new random id."""
    return f"apr-{uuid.uuid4()}"


def approval_request(intent: Intent, policy_id: str, approvers: Collection[str], now: int) -> ApprovalRequest:
    """Return the request for a person's approval of an intent.

    Args:
        intent: what to approve.
        policy_id: hash of the policy that demands it.
        approvers: public keys (hex) that may approve.
        now: whole seconds since 1970.
    """
    request = intent.request
    action = f"{request.method} {intent.document['route_pattern']}"
    subject = request.caller.subject[:_LONGEST_SUBJECT]
    demand = approval_evidence(intent.demand).removesuffix(": ")
    document = {
        "approval_id": new_approval_id(),
        "policy_id": policy_id,
        "subject_id": subject,
        "capability_id": intent.document["capability_id"] or "",
        "subject_public_key": intent.subject_key,
        "tool_server": _shortened(request.tool_server or "http"),
        "tool_name": _shortened(request.tool_name or action),
        "action": action,
        "parameter_hash": intent.parameter_hash,
        "expires_at": now + LONGEST_LIFE,
        "created_at": now,
        "summary": f"{request.method} {request.path[:_LONGEST_SUBJECT]} by {subject}: {demand}",
        "governed_intent": intent.document,
        "governed_intent_hash": intent.hash,
        "trusted_approvers": sorted(approvers),
    }
    requester = str(intent.document["capability_id"] or intent.document["caller_identity_hash"])
    return wait_for(document, intent.hash, requester)


def wait_for(document: dict[str, Any], hashed: str, requester: str) -> ApprovalRequest:
    """Return the store's entry for an ApprovalRequest (wire protocol, section 7.7)."""
    return ApprovalRequest(
        approval_id=document["approval_id"],
        intent_hash=hashed,
        requester=requester,
        request_json=compact_json(document),
        created_at=document["created_at"],
        expires_at=document["expires_at"],
        max_open=MAX_OPEN,
        max_open_each=MAX_OPEN_EACH,
    )


def presented_approval(value: Any, intent: Intent, approvers: Collection[str], now: int) -> ApprovalUse:
    """Return the use of the approval that a request presents; a token is checked as far as that goes without a store.

    Args:
        value: the member `approval_token`: an id, or a GovernedApprovalToken object.
        intent: what must be approved.
        approvers: public keys (hex) that may approve.
        now: whole seconds since 1970.

    Raises:
        Refused: it cannot be used.
    """
    if isinstance(value, str) and 0 < len(value) <= LONGEST_ID:
        return ApprovalUse(value, intent.hash, now)
    token = read_token(value)
    check_token(token, approvers=approvers, intent_hash=intent.hash, subject=intent.subject_key, now=now)
    if token.decision == "denied":
        raise Refused(Rule.APPROVAL_DENIED, id=token.request_id[:LONGEST_ID])
    return ApprovalUse(token.request_id, intent.hash, now, token.response(now))


def approval_refusal(obstacle: ApprovalRefused | TooManyWaiting) -> Refused:
    """Return the refusal that follows from what the store found; not for `waiting`, which refuses nothing."""
    if isinstance(obstacle, TooManyWaiting):
        return Refused(Rule.TOO_MANY_OWN if obstacle.own else Rule.TOO_MANY, limit=obstacle.limit)
    return Refused(_REFUSED[obstacle.why], id=obstacle.approval_id[:LONGEST_ID])


_REFUSED: Final = {
    "unknown": Rule.APPROVAL_UNKNOWN,
    "another request": Rule.APPROVAL_OTHER,
    "denied": Rule.APPROVAL_DENIED,
    "expired": Rule.APPROVAL_EXPIRED,
    "used": Rule.APPROVAL_USED,
    "replayed": Rule.APPROVAL_REPLAYED,
}
