"""GovernedApprovalToken: what an approver signs (wire protocol, section 7.7)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import ValidationError

from chio_core.canonical import canonical_json, compact_json
from chio_core.models.base import U64, Text, WireModel
from chio_core.models.capability import PublicKey, Signature
from chio_core.models.receipt import explain
from chio_core.signing import SigningKey, verify_signature
from chio_sidecar.store import ApprovalAnswer

LONGEST_LIFE = 3600
"""Seconds that a token may be valid, and a question may wait."""

NOBODY = "0" * 64
"""The subject where no capability names one."""

UNREADABLE = "approval token cannot be read: {why}"
UNTRUSTED = "approval token is signed by an approver that is not trusted"
BAD_SIGNATURE = "approval token signature verification failed"
OTHER_REQUEST = "approval token is bound to another request"
OTHER_SUBJECT = "approval token is for another subject"
TOO_LONG = f"approval token is valid for more than {LONGEST_LIFE} seconds"
NOT_YET = "approval token is not valid before {issued_at}"
EXPIRED = "approval token expired at {expires_at}"

_LONGEST_ID = 128
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


class TokenRejected(Exception):
    """A token does not count.

    Attributes:
        reason: exact text.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class GovernedApprovalToken(WireModel):
    """A signed answer to one question.

    Attributes:
        subject: key of the capability's holder, `NOBODY` where there is none.
        governed_intent_hash: of what was asked.
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

    def answer(self, now: int, reason: str | None = None) -> ApprovalAnswer:
        """Return the answer that this token is, given at `now`."""
        document = {name: getattr(self, name) for name in (*_SIGNED, "signature")}
        return ApprovalAnswer(
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
        TokenRejected: it has another shape.
    """
    try:
        token = GovernedApprovalToken.model_validate(document)
    except ValidationError as exc:
        raise TokenRejected(UNREADABLE.format(why=explain(exc))) from None
    if not 0 < len(token.id) <= _LONGEST_ID:
        raise TokenRejected(UNREADABLE.format(why=f"id must have 1 to {_LONGEST_ID} characters"))
    return token


def check_token(
    token: GovernedApprovalToken, *, approvers: Collection[str], intent_hash: str, subject: str, now: int
) -> None:
    """Return if a token counts for a question.

    Args:
        token: what was presented.
        approvers: public keys (hex) that may approve.
        intent_hash: of what was asked.
        subject: key of the capability's holder, or `NOBODY`.
        now: whole seconds since 1970.

    Raises:
        TokenRejected: naming the first rule that it breaks.
    """
    if token.approver not in approvers:
        raise TokenRejected(UNTRUSTED)
    if not verify_signature(token.approver, token.signed(), token.signature):
        raise TokenRejected(BAD_SIGNATURE)
    if token.governed_intent_hash != intent_hash:
        raise TokenRejected(OTHER_REQUEST)
    if token.subject != subject:
        raise TokenRejected(OTHER_SUBJECT)
    if token.expires_at - token.issued_at > LONGEST_LIFE:
        raise TokenRejected(TOO_LONG)
    if now < token.issued_at:
        raise TokenRejected(NOT_YET.format(issued_at=token.issued_at))
    if now >= token.expires_at:
        raise TokenRejected(EXPIRED.format(expires_at=token.expires_at))


def sign_token(
    key: SigningKey,
    *,
    token_id: str,
    subject: str,
    intent_hash: str,
    approval_id: str,
    decision: Literal["approved", "denied"],
    now: int,
    seconds: int = LONGEST_LIFE,
) -> GovernedApprovalToken:
    """Return a signed answer, valid from `now` for `seconds`."""
    body: dict[str, Any] = {
        "id": token_id,
        "approver": key.public_hex,
        "subject": subject,
        "governed_intent_hash": intent_hash,
        "request_id": approval_id,
        "issued_at": now,
        "expires_at": now + seconds,
        "decision": decision,
    }
    return GovernedApprovalToken(**body, signature=key.sign(canonical_json(body)))
