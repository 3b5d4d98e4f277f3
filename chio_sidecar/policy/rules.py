"""The rules by which this sidecar refuses, each with a short id, its guard and its exact reason.

R1 to R8 are those of wire protocol, section 1.6. The id of the rule that refused is signed and stored with the
receipt, as the member `chio_rule` of its metadata: `rule_of` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from chio_core.canonical import sha256_hex
from chio_core.models import demands as texts
from chio_core.models.demands import APPROVAL_GUARD, BUDGET_GUARD, CAPABILITY_GUARD
from chio_core.models.receipt import RULE, HttpReceipt

REVOCATION_GUARD: Final = "CapabilityRevocation"
FOLLOW_UP_GUARD: Final = "FurtherGuard"
"""Guard of refusals about the receipt that a second evaluation of one request names."""

REVOKED_POLICY_HASH: Final = sha256_hex(b"chio_api_protect_revoked_capability")
"""Policy hash of a receipt about a revoked token (wire protocol, section 1.7)."""

HINTS: Final[Mapping[str, str]] = {
    APPROVAL_GUARD: "repeat the request without an approval to request a new one",
    BUDGET_GUARD: "lower the cost, or obtain a capability with a larger budget",
    FOLLOW_UP_GUARD: "repeat the request",
}
"""What a caller can do after a refusal, by guard; the member `hint` of the verdict's details."""

LONGEST_ID: Final = 128
"""Characters of an id that a reason repeats: it may come from the request."""


_GUARDS = {
    "approval": APPROVAL_GUARD,
    "approval-token": APPROVAL_GUARD,
    "budget": BUDGET_GUARD,
    "follow-up": FOLLOW_UP_GUARD,
}


class Rule(Enum):
    """One rule.

    Attributes:
        id: stable and short; written into receipts.
        guard: the guard that the verdict names.
        text: template of the verdict's reason.
    """

    BOTH_TOOL_FIELDS = "R1", texts.BOTH_TOOL_FIELDS
    TOKEN_UNREADABLE = "R2", "invalid capability token: {text}"
    ISSUER_UNTRUSTED = "R3", "capability issuer is not trusted"
    BAD_SIGNATURE = "R4", "capability signature verification failed"
    NOT_YET_VALID = ("R5a", "invalid capability token: capability not yet valid (not_before: {not_before})")
    EXPIRED = "R5b", "invalid capability token: capability expired at {expires_at}"
    NOT_GRANTED = "R6", texts.NOT_GRANTED
    BAD_PATTERN = "R6x", "failed to evaluate capability scope: {text}"
    OTHER_CAPABILITY = "R7", texts.OTHER_CAPABILITY
    NO_CAPABILITY = "R8", texts.NO_CAPABILITY

    # Beyond the protocol's April state.
    DELEGATION = "delegation", "delegation {text}"
    OTHER_HOLDER = "holder", texts.OTHER_HOLDER
    UNSUPPORTED = ("unsupported", "HTTP authority projection does not support authorization field {field}")
    REVOKED = "revoked", texts.REVOKED
    ANCESTOR_REVOKED = "revoked.ancestor", "presented capability {id} has been revoked"
    AUTHORITY_UNAVAILABLE = ("revoked.unknown", "revocation authority is unavailable; no operation was dispatched")
    NOT_ENFORCED = "restriction", texts.NOT_ENFORCED
    EXHAUSTED = "invocations", texts.EXHAUSTED

    APPROVAL_NEEDED = "approval.needed", texts.NEEDS_APPROVAL
    APPROVAL_DENIED = "approval.denied", "approval {id} was denied"
    APPROVAL_UNKNOWN = "approval.unknown", "approval {id} is not known"
    APPROVAL_OTHER = "approval.other", "approval {id} is for another request"
    APPROVAL_EXPIRED = "approval.expired", "approval {id} has expired"
    APPROVAL_USED = "approval.used", "approval {id} was used already"
    APPROVAL_REPLAYED = ("approval.replayed", "the token of approval {id} was used for another approval already")
    TOO_MANY = (
        "approval.too-many",
        "{limit} approvals are waiting already; try again when one is approved, denied or expired",
    )
    TOO_MANY_OWN = (
        "approval.too-many-own",
        "{limit} approvals of this caller are waiting already; try again when one is approved, denied or expired",
    )

    APPROVER_UNTRUSTED = ("approval-token.untrusted", "approval token is signed by an approver that is not trusted")
    APPROVAL_TOKEN_UNREADABLE = "approval-token.unreadable", "approval token cannot be read: {why}"
    APPROVAL_TOKEN_SIGNATURE = ("approval-token.signature", "approval token signature verification failed")
    APPROVAL_TOKEN_OTHER = "approval-token.other", "approval token is bound to another request"
    APPROVAL_TOKEN_SUBJECT = "approval-token.subject", "approval token is for another subject"
    APPROVAL_TOKEN_TOO_LONG = ("approval-token.too-long", "approval token is valid for more than {seconds} seconds")
    APPROVAL_TOKEN_NOT_YET = ("approval-token.not-yet", "approval token is not valid before {issued_at}")
    APPROVAL_TOKEN_EXPIRED = "approval-token.expired", "approval token expired at {expires_at}"

    BUDGET_CURRENCY = ("budget.currency", "budget is in {stated}, and that of the route in {route}")
    GRANT_CURRENCY = ("budget.grant-currency", "budget is in {currency}, and the limit of {spender} in {limit}")
    COST_TOO_HIGH = (
        "budget.cost",
        "budget exceeded: cost {cost} {currency} is above {most} {currency} for one invocation of {spender}",
    )
    NO_INVOCATION = ("budget.invocations", "budget exceeded: no invocation left of {most} for {spender}")
    TOTAL_EXCEEDED = (
        "budget.total",
        "budget exceeded: cost {cost} {currency}, and {left} {currency} are left of {most} {currency} for {spender}",
    )

    FOLLOW_UP_UNKNOWN = (
        "follow-up.unknown",
        "the request is further to receipt {id}, which this sidecar has not stored",
    )
    FOLLOW_UP_NO_ALLOW = (
        "follow-up.no-allow",
        "the request is further to receipt {id}, which is no allow of a first evaluation by this sidecar",
    )
    FOLLOW_UP_OTHER = ("follow-up.other", "the request is further to receipt {id}, which is for another request")
    FOLLOW_UP_TOO_OLD = (
        "follow-up.too-old",
        "the request is further to receipt {id}, which was not signed within the last {within} s",
    )

    def __init__(self, id: str, text: str) -> None:
        self.id = id
        self.text = text
        family = id.partition(".")[0]
        self.guard = REVOCATION_GUARD if id == "revoked" else _GUARDS.get(family, CAPABILITY_GUARD)

    @classmethod
    def by_id(cls, rule_id: str) -> Rule:
        """Return the rule with this id.

        Raises:
            KeyError: there is no such rule.
        """
        return {rule.id: rule for rule in cls}[rule_id]


class Refused(Exception):
    """A rule refuses the request.

    Attributes:
        rule: which.
        reason: exact text of the verdict.

    Args:
        rule: which.
        reason: the exact text where the rule's own is a beginning only.
        values: for the placeholders of the rule's text.
    """

    def __init__(self, rule: Rule, reason: str | None = None, **values: object) -> None:
        self.rule = rule
        self.reason = rule.text.format(**values) if reason is None else reason
        super().__init__(self.reason)


def rule_of(receipt: HttpReceipt | Mapping[str, Any]) -> str | None:
    """Return the id of the rule that refused, as the receipt states it.

    A receipt about a revoked token has fixed metadata (wire protocol, section 1.7); guard and policy hash tell its
    rule.

    Args:
        receipt: as a model, or as the JSON object that is stored.

    Returns:
        None for an allow, and for receipts of other sidecars, which name no rule. The id may be unknown here when
        a newer version wrote it.
    """
    document = receipt.raw if isinstance(receipt, HttpReceipt) else receipt
    metadata, verdict = document.get("metadata"), document.get("verdict")
    named = metadata.get(RULE) if isinstance(metadata, Mapping) else None
    if isinstance(named, str):
        return named
    guard = verdict.get("guard") if isinstance(verdict, Mapping) else None
    revoked = guard == REVOCATION_GUARD and document.get("policy_hash") == REVOKED_POLICY_HASH
    return Rule.REVOKED.id if revoked else None
