"""What a receipt may demand of the store beyond revocations, and what stands in the way of it.

Each demand is judged and recorded in the transaction that stores the receipt. Times are whole seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Charge:
    """Spending from an account, one invocation and its cost.

    Attributes:
        account: names the account; one account has one currency.
        cost: in units of `currency`, from 0 to 2**63 - 1.
        currency: for messages.
        spender: what the account is for, for messages.
        max_invocations: how many charges the account may have; None is without limit.
        max_total: what they may come to, in units of `currency`; None is without limit.
    """

    account: str
    cost: int
    currency: str
    spender: str
    max_invocations: int | None = None
    max_total: int | None = None


@dataclass(frozen=True, slots=True)
class BudgetExceeded:
    """A charge does not fit into its account; nothing was stored.

    Attributes:
        limit: which limit it breaks.
        left: what is left of that limit: invocations, or units of the currency.
    """

    charge: Charge
    limit: Literal["invocations", "total"]
    left: int


@dataclass(frozen=True, slots=True)
class ApprovalWait:
    """A question to a person, kept until it is answered or expires.

    Attributes:
        approval_id: id of the new question.
        intent_hash: what is to be approved; one intent has one open question.
        requester: who asks, so that one cannot take all places.
        request_json: the question as it is shown (wire protocol, section 7.7, ApprovalRequest).
        created_at: now.
        expires_at: until when it may be answered.
        max_open: open questions that there may be at once.
        max_open_each: of these, by one requester.
    """

    approval_id: str
    intent_hash: str
    requester: str
    request_json: str
    created_at: int
    expires_at: int
    max_open: int
    max_open_each: int


@dataclass(frozen=True, slots=True)
class AlreadyAsked:
    """The intent has a question already, or an answer that still counts; nothing was stored.

    Attributes:
        denied: the answer was no, and its time is not over.
    """

    approval_id: str
    denied: bool


@dataclass(frozen=True, slots=True)
class TooManyWaiting:
    """As many questions wait as may; nothing was stored.

    Attributes:
        limit: how many may.
        own: they are all by this requester.
    """

    limit: int
    own: bool


Outcome = Literal["approved", "denied"]
"""What a person said."""


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """What a person said to a question.

    Attributes:
        approver: public key that signed the token, hex.
        token_id: id of the signed GovernedApprovalToken; a token counts once.
        token_json: the token.
        resolved_at: when it was said.
        expires_at: the first second in which it no longer counts.
        reason: why, in the approver's words.
    """

    approval_id: str
    outcome: Outcome
    approver: str
    token_id: str
    token_json: str
    resolved_at: int
    expires_at: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovalUse:
    """The one use of an approval.

    Attributes:
        approval_id: which.
        intent_hash: of the request that uses it; it must be the one that was asked about.
        at: now.
        token: a token that the request brings along, verified; it also answers a question that is still open.
    """

    approval_id: str
    intent_hash: str
    at: int
    token: ApprovalAnswer | None = None


WhyNot = Literal["unknown", "another request", "waiting", "denied", "expired", "used", "replayed"]


@dataclass(frozen=True, slots=True)
class ApprovalRefused:
    """An approval cannot be used; nothing was stored.

    Attributes:
        why: `unknown`; `another request`: it is for something else; `waiting`: nobody answered yet; `denied`;
            `expired`; `used`; `replayed`: its token answered another question.
    """

    approval_id: str
    why: WhyNot


AnswerOutcome = Literal["recorded", "unknown", "answered", "expired", "replayed"]
"""What became of an answer: `answered` there was one before, `replayed` its token was used for another question."""


@dataclass(frozen=True, slots=True)
class StoredApproval:
    """A question, and what became of it.

    Attributes:
        answer: None while nobody answered.
        used_by: id of the request that used the approval.
    """

    approval_id: str
    intent_hash: str
    request_json: str
    created_at: int
    expires_at: int
    answer: ApprovalAnswer | None = None
    used_by: str | None = None


Demand = Charge | ApprovalUse | ApprovalWait
"""What a receipt demands."""

Obstacle = BudgetExceeded | ApprovalRefused | AlreadyAsked | TooManyWaiting
"""What stands in the way of a demand."""
