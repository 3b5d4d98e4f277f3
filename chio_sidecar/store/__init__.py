"""The storage of receipts: what goes in, what comes out, and the protocol of a backend.

The promises of every backend, which `tests/sidecar/store_conformance.py` checks:

* a receipt that `append` returned is durable: it survives the death of the process and of the machine;
* nothing that was stored is ever changed or removed, by no call and by no second writer's plain SQL; what a signed
  archive holds can be removed (`rotate`), and a signed record can take the place of a receipt (`erase`);
* each row carries a digest over itself and the row before (`hash_chain`), so a breach of that is visible;
* a request id has one receipt: the same content again returns that very receipt, other content a `Conflict`;
* the conditions of an entry (capabilities that are not revoked, invocations and budgets that are left, an approval that
  was not used) are checked and recorded in the transaction that stores it, so an acknowledged revocation precedes
  every later receipt, and nothing is spent or used twice;
* an approval request has one response, and the response is used once;
* a caller waits a bounded time for a write, and a bounded number of writes wait.
"""

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
        spender: the owner of the account, for messages.
        max_invocations: number of charges that the account may have; None is without limit.
        max_total: their largest sum, in units of `currency`; None is without limit.
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
class ApprovalRequest:
    """A request for a person's approval, pending until its response or its expiry.

    Attributes:
        approval_id: the new id.
        intent_hash: what to approve; one intent has one pending request.
        requester: capability or caller, so that one of them cannot take all places.
        request_json: the ApprovalRequest as people see it (wire protocol, section 7.7).
        created_at: now, in whole seconds since 1970.
        expires_at: the first second in which it is no longer pending.
        max_open: requests that may be pending at once.
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
class AlreadyRequested:
    """The intent has a pending request, or a response that still counts; nothing was stored.

    Attributes:
        denied: the response denies, and has not expired.
    """

    approval_id: str
    denied: bool


@dataclass(frozen=True, slots=True)
class TooManyWaiting:
    """The number of pending requests is at its limit; nothing was stored.

    Attributes:
        limit: the largest number.
        own: all of them are by this requester.
    """

    limit: int
    own: bool


Outcome = Literal["approved", "denied"]
"""The decision of a person."""


@dataclass(frozen=True, slots=True)
class ApprovalResponse:
    """A person's response to an approval request. Times are whole seconds since 1970.

    Attributes:
        approver: public key that signed the token, hex.
        token_id: id of the signed GovernedApprovalToken; a token counts once.
        token_json: the token.
        resolved_at: the time of the response.
        expires_at: the first second in which it no longer counts.
        reason: the approver's reason.
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
        approval_id: its id.
        intent_hash: of the request that uses it; it must equal that of the approval request.
        at: now, in whole seconds since 1970.
        token: a verified token that the request presents; it also responds to an approval request that is pending.
    """

    approval_id: str
    intent_hash: str
    at: int
    token: ApprovalResponse | None = None


WhyNot = Literal["unknown", "another request", "waiting", "denied", "expired", "used", "replayed"]


@dataclass(frozen=True, slots=True)
class ApprovalRefused:
    """An approval cannot be used; nothing was stored.

    Attributes:
        why: `unknown`; `another request`: it is for another intent; `waiting`: it is pending; `denied`; `expired`;
            `used`; `replayed`: its token has responded to another approval request.
    """

    approval_id: str
    why: WhyNot


ResponseOutcome = Literal["recorded", "unknown", "resolved", "expired", "replayed"]
"""`resolved`: the approval request has a response; `replayed`: the token was used before."""


@dataclass(frozen=True, slots=True)
class StoredApproval:
    """An approval request and its present state.

    Attributes:
        response: None while there is no response.
        used_by: id of the request that used the approval.
    """

    approval_id: str
    intent_hash: str
    request_json: str
    created_at: int
    expires_at: int
    response: ApprovalResponse | None = None
    used_by: str | None = None


@dataclass(frozen=True, slots=True)
class Invocation:
    """One use of a grant with a limited number of uses.

    Attributes:
        capability_id: id of the token.
        grant_index: position of the tool grant in the token's scope, from 0; negative for a number that all tokens of
            one descent share, see `chio_sidecar.policy.budgets.shared_index`.
        limit: the grant's `max_invocations`.
    """

    capability_id: str
    grant_index: int
    limit: int


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The grant has no invocation left; nothing was stored."""

    invocation: Invocation


Obligation = Charge | Invocation | ApprovalUse | ApprovalRequest
"""A condition of a receipt that is recorded with it."""

Obstacle = BudgetExceeded | Exhausted | ApprovalRefused | AlreadyRequested | TooManyWaiting
"""Why an obligation cannot be recorded."""


class StoreUnavailable(ChioError):
    """The store cannot write or read now; the message says why. Nothing was stored."""

    code = "chio_receipt_persistence_failed"


class StoreBusy(StoreUnavailable):
    """Too many writes wait; try again later. Nothing was stored."""


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt to store, and its conditions.

    Attributes:
        receipt_id: id of the receipt.
        request_id: the client's id; unique in the store.
        fingerprint: equal for a repeated request id with the same content.
        receipt_json: the signed receipt as compact JSON, members in protocol order.
        unless_revoked: capability ids, and names of issuers, of which none may be revoked.
        invocation: a use of a limited grant that the receipt spends.
        obligations: approvals, budgets and shared uses to check, in this order, and to record.
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
        fresh: this call has stored it.
    """

    receipt_json: str
    fresh: bool


@dataclass(frozen=True, slots=True)
class Conflict:
    """The request id has a receipt for other content; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """A capability is revoked; nothing was stored."""

    capability_id: str


AppendOutcome = Stored | Conflict | Revoked | Obstacle


@dataclass(frozen=True, slots=True)
class StoredReceipt:
    """One row.

    Attributes:
        sequence: row number, growing in the order of insertion.
        created_at: time of storage, UTC, ISO 8601 with microseconds.
    """

    sequence: int
    receipt_id: str
    request_id: str
    receipt_json: str
    created_at: str


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """The result of `ReceiptStore.health`.

    Attributes:
        writable: a commit has succeeded now.
        detail: how the store writes, or why it cannot; one sentence without secrets.
    """

    writable: bool
    detail: str


@runtime_checkable
class ReceiptStore(Protocol):
    """A durable, append-only store. Every method may be called from any thread and any event loop.

    All methods except `close` raise `StoreUnavailable` (or its child `StoreBusy`) if the store cannot do its work;
    nothing was stored then.
    """

    async def append(self, entry: NewReceipt) -> AppendOutcome:
        """Store a receipt and return once it is durable, or return why it was not stored."""
        ...

    async def get(self, receipt_id: str) -> StoredReceipt | None:
        """Return the receipt with this id, or None."""
        ...

    async def list(self, *, after: int = 0, limit: int = 50) -> Sequence[StoredReceipt]:
        """Return at most `limit` receipts whose row number is greater than `after`, oldest first."""
        ...

    async def revoke(self, capability_id: str) -> bool:
        """Revoke a capability permanently; return True if it was not revoked before.

        Raises:
            InvalidDocument: see `check_revocable`.
        """
        ...

    async def is_revoked(self, capability_id: str) -> bool:
        """Return True if a capability was revoked."""
        ...

    async def authority_keys(self) -> frozenset[str]:
        """Return the public keys (64 hex digits) that the authority in this store signs or has signed with.

        Empty without an authority. A key that was withdrawn is not among them; of one that is withdrawn later, `append`
        refuses what it has signed.
        """
        ...

    async def request_approval(self, request: ApprovalRequest) -> AlreadyRequested | TooManyWaiting | None:
        """Store an approval request without a receipt; return None, or why it was not stored."""
        ...

    async def respond(self, response: ApprovalResponse) -> ResponseOutcome:
        """Store a person's response permanently, and return `recorded`, or why it was not stored."""
        ...

    async def approval(self, approval_id: str) -> StoredApproval | None:
        """Return the approval request with this id and its state, or None."""
        ...

    async def open_approvals(self, *, now: int, limit: int) -> Sequence[StoredApproval]:
        """Return at most `limit` approval requests that are pending at `now`, oldest first.

        Args:
            now: whole seconds since 1970.
            limit: the largest number of them.
        """
        ...

    async def health(self) -> StoreHealth:
        """Commit a row of no meaning and return whether that succeeded. Never raises `StoreUnavailable`."""
        ...

    async def close(self) -> None:
        """Write what waits, then release everything. A second call does nothing."""
        ...
