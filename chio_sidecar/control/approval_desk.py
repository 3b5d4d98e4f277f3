"""Approval requests of one store: listing, submitting and responding (wire protocol, sections 7.7 and 12.4).

The control plane offers this over HTTP, and the command line on a store's file. The store guarantees that an approval
request is resolved once, also if several processes respond.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from chio_core.canonical import parse_json
from chio_core.errors import ChioError
from chio_core.models.base import Text
from chio_core.models.receipt import explain
from chio_core.signing import SigningKey
from chio_sidecar.policy.approvals import (
    LONGEST_LIFE,
    MAX_OPEN,
    NOBODY,
    approval_refusal,
    check_token,
    intent_hash,
    new_approval_id,
    read_token,
    sign_token,
    wait_for,
)
from chio_sidecar.policy.rules import Refused, Rule
from chio_sidecar.store import AlreadyRequested, ApprovalResponse, ReceiptStore, StoredApproval, TooManyWaiting

DEFAULT_LIMIT = 100
"""Pending approvals that are listed if the caller gives no limit."""

MAX_BATCH = 1000
"""Responses that one batch may hold."""

SUBMITTED_POLICY = "chio_sidecar_submitted_approval"
"""`policy_id` of an approval request that does not come from a route's policy."""

_REASON = Annotated[str, Field(strict=True, max_length=1000)]
_NAME = Annotated[str, Field(strict=True, min_length=1, max_length=1000)]
_NOT_RECORDED = {
    "unknown": (404, "not_found", "approval {id} is not known"),
    "resolved": (409, "conflict", "approval {id} is approved or denied already"),
    "expired": (409, "conflict", "approval {id} has expired"),
    "replayed": (409, "replay_detected", "the token for approval {id} was used already"),
}

M = TypeVar("M", bound=BaseModel)


class DeskError(ChioError):
    """A call is refused.

    Attributes:
        status: HTTP status.
        code: the protocol's error code.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class OperatorResponse(BaseModel):
    """Body of `operator-respond`: the sidecar signs for the operator."""

    outcome: Literal["approved", "denied"]
    reason: _REASON | None = None


class SignedResponse(OperatorResponse):
    """Body of `respond`: the approver has signed."""

    approver: Text
    token: dict[str, Any]


class BatchedResponse(BaseModel):
    """One response of a batch; its other members are those of `SignedResponse`, checked one response at a time."""

    model_config = {"extra": "allow"}

    approval_id: Text


class Batch(BaseModel):
    """Body of `batch/respond`."""

    decisions: list[BatchedResponse] = Field(max_length=MAX_BATCH)


class Submission(BaseModel):
    """Body of `submit`.

    Attributes:
        ttl_seconds: how long the approval may be pending.
    """

    capability_id: Annotated[str, Field(strict=True, max_length=1000)]
    tool_server: _NAME
    tool_name: _NAME
    parameter_hash: _NAME
    requested_by: _NAME
    ttl_seconds: int = Field(LONGEST_LIFE, strict=True, ge=1, le=LONGEST_LIFE)
    summary: _REASON | None = None
    triggered_by: _REASON | Annotated[list[_REASON], Field(max_length=20)] | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which pending approvals to list; None matches any.

    Attributes:
        not_expired_at: only those that are still pending then, whole seconds since 1970.
        limit: how many at most.
    """

    subject_id: str | None = None
    tool_server: str | None = None
    tool_name: str | None = None
    not_expired_at: int = 0
    limit: int = DEFAULT_LIMIT

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Return True if an ApprovalRequest is to be listed."""
        wanted = {"subject_id": self.subject_id, "tool_server": self.tool_server, "tool_name": self.tool_name}
        return all(value is None or document.get(name) == value for name, value in wanted.items())


class ApprovalDesk:
    """Lists and resolves the approval requests of one store.

    Args:
        store: holds them.
        key: signs for operators.
        approvers: public keys (hex) whose signed responses are accepted.
        now: returns whole seconds since 1970.
    """

    def __init__(
        self, store: ReceiptStore, key: SigningKey, approvers: Collection[str], now: Callable[[], int]
    ) -> None:
        self._store = store
        self._key = key
        self._approvers = approvers
        self._now = now

    async def pending(self, wanted: Filter) -> dict[str, Any]:
        """Return the pending approvals, oldest first."""
        since = max(self._now(), wanted.not_expired_at)
        rows = await self._store.open_approvals(now=since, limit=MAX_OPEN)
        documents = [document for row in rows if wanted.matches(document := parse_json(row.request_json))]
        found = documents[: wanted.limit]
        return {"approvals": found, "count": len(found)}

    async def show(self, approval_id: str) -> dict[str, Any]:
        """Return a pending approval, or its resolution.

        Raises:
            DeskError: 404.
        """
        row = await self._known(approval_id)
        response = row.response
        if response is None:
            if row.expires_at <= self._now():
                raise DeskError(404, "not_found", f"approval {_short(approval_id)} has expired")
            return {"pending": parse_json(row.request_json)}
        return {
            "resolution": {
                "approval_id": row.approval_id,
                "outcome": response.outcome,
                "resolved_at": response.resolved_at,
                "approver_hex": response.approver,
                "token_id": response.token_id,
            }
        }

    async def operator_respond(self, approval_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Record the response of an operator; the desk signs the token with its key.

        Raises:
            DeskError: 400, 404 or 409.
        """
        row = await self._known(approval_id)
        response = _read(OperatorResponse, document, "answer")
        token = sign_token(
            self._key,
            token_id=f"apt-{uuid.uuid4()}",
            subject=_subject(row),
            intent_hash=row.intent_hash,
            approval_id=approval_id,
            decision=response.outcome,
            now=self._now(),
        )
        return await self._record(token.response(self._now(), response.reason))

    async def respond(self, approval_id: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Record a response that an approver has signed.

        Raises:
            DeskError: 400, 403, 404 or 409.
        """
        row = await self._known(approval_id)
        response = _read(SignedResponse, document, "answer")
        try:
            token = read_token(response.token)
        except Refused as exc:
            raise DeskError(400, "bad_request", exc.reason) from None
        now = self._now()
        # The body must say the same as the token: only the token is signed.
        try:
            if token.request_id != approval_id:
                raise DeskError(403, "approval_rejected", "approval token is for another approval")
            if token.approver != response.approver.removeprefix("0x").lower():
                raise DeskError(403, "approval_rejected", "approver is not the one who signed the token")
            if token.decision != response.outcome:
                raise DeskError(
                    403, "approval_rejected", f"outcome is {response.outcome}, and the token says {token.decision}"
                )
            check_token(token, approvers=self._approvers, intent_hash=row.intent_hash, subject=_subject(row), now=now)
        except Refused as exc:
            raise DeskError(403, "approval_rejected", exc.reason) from None
        return await self._record(token.response(now, response.reason))

    async def batch(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Record several signed responses, each independent of the others.

        Raises:
            DeskError: 400 if the document is not a batch.
        """
        results: list[dict[str, Any]] = []
        for decision in _read(Batch, document, "approval batch").decisions:
            result = {"approval_id": decision.approval_id}
            try:
                done = await self.respond(decision.approval_id, decision.model_extra or {})
                results.append(result | {"status": "resolved", "outcome": done["outcome"]})
            except ChioError as exc:
                results.append(result | {"status": "rejected", "error": exc.message})
        outcomes = [result.get("outcome") for result in results]
        counted = {name: outcomes.count(name) for name in ("approved", "denied")}
        return {"results": results, "summary": {"total": len(results), **counted, "rejected": outcomes.count(None)}}

    async def submit(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Store an approval request that does not come from a route's policy.

        Raises:
            DeskError: 400; 403 if the same request was denied a short while ago; 503 if too many are pending.
        """
        wanted, now = _read(Submission, document, "approval"), self._now()
        intent = wanted.model_dump(
            include={"capability_id", "tool_server", "tool_name", "parameter_hash", "requested_by"}
        )
        hashed, approval_id, expires_at = intent_hash(intent), new_approval_id(), now + wanted.ttl_seconds
        action = f"{wanted.tool_server}/{wanted.tool_name}"
        request = {
            "approval_id": approval_id,
            "policy_id": SUBMITTED_POLICY,
            "subject_id": wanted.requested_by,
            "capability_id": wanted.capability_id,
            "subject_public_key": NOBODY,
            "tool_server": wanted.tool_server,
            "tool_name": wanted.tool_name,
            "action": action,
            "parameter_hash": wanted.parameter_hash,
            "expires_at": expires_at,
            "created_at": now,
            "summary": wanted.summary or f"{action} by {wanted.requested_by}",
            "governed_intent": intent,
            "governed_intent_hash": hashed,
            "trusted_approvers": sorted(self._approvers),
        }
        if wanted.triggered_by is not None:
            request["triggered_by"] = wanted.triggered_by
        obstacle = await self._store.request_approval(
            wait_for(request, hashed, wanted.capability_id or wanted.requested_by)
        )
        if isinstance(obstacle, TooManyWaiting):
            raise DeskError(503, "chio_overloaded", approval_refusal(obstacle).reason)
        if isinstance(obstacle, AlreadyRequested):
            approval_id = obstacle.approval_id
            if obstacle.denied:
                raise DeskError(403, "approval_rejected", Rule.APPROVAL_DENIED.text.format(id=approval_id))
            expires_at = (await self._known(approval_id)).expires_at
        return {
            "approval_id": approval_id,
            "status": "pending",
            "expires_at": expires_at,
            "resume_path": f"/approvals/{approval_id}/respond",
        }

    async def _record(self, response: ApprovalResponse) -> dict[str, Any]:
        outcome = await self._store.respond(response)
        if outcome != "recorded":
            status, code, message = _NOT_RECORDED[outcome]
            raise DeskError(status, code, message.format(id=_short(response.approval_id)))
        return {"approval_id": response.approval_id, "outcome": response.outcome, "resolved_at": response.resolved_at}

    async def _known(self, approval_id: str) -> StoredApproval:
        row = await self._store.approval(approval_id)
        if row is None:
            raise DeskError(404, "not_found", f"approval {_short(approval_id)} is not known")
        return row


def _subject(row: StoredApproval) -> str:
    return str(parse_json(row.request_json)["subject_public_key"])


def _read(model: type[M], document: Mapping[str, Any], what: str) -> M:
    try:
        return model.model_validate(document)
    except ValidationError as exc:
        raise DeskError(400, "bad_request", f"invalid {what}: {explain(exc)}") from None


def _short(approval_id: str) -> str:
    return approval_id[:100]
