"""What goes into a store, what comes out, and the protocol of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from chio_core.errors import ChioError


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


Obligation = Charge | ApprovalUse | ApprovalWait
"""What a receipt demands."""

Obstacle = BudgetExceeded | ApprovalRefused | AlreadyAsked | TooManyWaiting
"""What stands in the way of a demand."""


class StoreUnavailable(ChioError):
    """The store cannot write or read now; the text says why. Nothing was stored."""

    code = "chio_receipt_persistence_failed"


class StoreBusy(StoreUnavailable):
    """More writes wait already than may wait; try again later. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One use of a grant that may be used a limited number of times.

    Attributes:
        capability_id: id of the token.
        grant_index: position of the tool grant in the token's scope, from 0.
        limit: the grant's `max_invocations`.
    """

    capability_id: str
    grant_index: int
    limit: int


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt to be stored, and what must hold at that moment.

    Attributes:
        receipt_id: id of the receipt.
        request_id: the client's id; unique in the store.
        fingerprint: tells whether a repeated request id stands for the same content.
        receipt_json: the signed receipt as compact JSON, members in protocol order.
        unless_revoked: capability ids of which none may be revoked.
        invocation: a use of a limited grant that the receipt spends.
        obligations: what else must hold and is then recorded: approvals and budgets, judged in this order.
    """

    receipt_id: str
    request_id: str
    fingerprint: str
    receipt_json: str
    unless_revoked: tuple[str, ...] = ()
    invocation: Invocation | None = None
    obligations: tuple[Obligation, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """The request id has this receipt, durably.

    Attributes:
        receipt_json: the stored text: the new one, or that of an earlier request with the same content.
        fresh: True when it was stored by this call.
    """

    receipt_json: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """The request id is taken by other content; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A capability that had to be unrevoked is not; nothing was stored."""

    capability_id: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The grant has no invocation left; nothing was stored."""

    invocation: Invocation


AppendOutcome = Stored | Conflict | Revoked | Exhausted | Obstacle


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """One row.

    Attributes:
        sequence: row number, growing in the order of insertion.
        created_at: when it was stored, UTC, ISO 8601 with microseconds.
    """

    sequence: int
    receipt_id: str
    request_id: str
    receipt_json: str
    created_at: str


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Answer of `ReceiptStore.health`.

    Attributes:
        writable: a commit just succeeded.
        detail: how the store writes, or why it cannot; one sentence without secrets.
    """

    writable: bool
    detail: str


@runtime_checkable
class ReceiptStore(Protocol):
    """A durable, append-only store. Every method may be called from any thread and any event loop.

    All methods but `close` raise `StoreUnavailable` (also its child `StoreBusy`) when the store cannot do its
    work; then nothing was stored.
    """

    async def append(self, entry: NewReceipt) -> AppendOutcome:
        """Store a receipt and return once it is durable, or say why it was not stored."""
        ...

    async def get(self, receipt_id: str) -> StoredReceipt | None:
        """Return the receipt with this id, or None."""
        ...

    async def find_by_request_id(self, request_id: str) -> StoredReceipt | None:
        """Return the receipt of this request, or None."""
        ...

    async def list(self, *, after: int = 0, limit: int = 50) -> Sequence[StoredReceipt]:
        """Return at most `limit` receipts whose row number is greater than `after`, oldest first."""
        ...

    async def revoke(self, capability_id: str) -> bool:
        """Revoke a capability for good; True when it was not revoked before."""
        ...

    async def is_revoked(self, capability_id: str) -> bool:
        """Tell whether a capability was revoked."""
        ...

    async def ask(self, wait: ApprovalWait) -> AlreadyAsked | TooManyWaiting | None:
        """Keep a question to a person, without a receipt; None when it is new, or what stands in its way."""
        ...

    async def answer(self, given: ApprovalAnswer) -> AnswerOutcome:
        """Keep a person's answer, for good, and say what became of it."""
        ...

    async def approval(self, approval_id: str) -> StoredApproval | None:
        """Return the question with this id, or None."""
        ...

    async def open_approvals(self, *, now: int, limit: int) -> Sequence[StoredApproval]:
        """Return at most `limit` questions that nobody answered and that have not expired, oldest first.

        Args:
            now: whole seconds since 1970.
            limit: how many at most.
        """
        ...

    async def health(self) -> StoreHealth:
        """Commit something small and say how that went. Never raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Finish the writes that wait, then release everything. May be called twice."""
        ...
