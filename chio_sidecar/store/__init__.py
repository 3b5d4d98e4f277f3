"""Where receipts are kept: the seam behind which a database stands.

The promises of every backend, which `tests/sidecar/store_conformance.py` asks for:

* a receipt that `append` returned is durable: it survives the death of the process and of the machine;
* nothing that was stored is ever changed or removed, by no call and by no second writer's plain SQL;
* each row carries a digest over itself and the row before (`chain`), so it shows when that was broken all the same;
* a request id has one receipt. The same content again gives back that very receipt, other content a `Conflict`;
* what an entry demands (capabilities that are not revoked, invocations and budgets that are left, an approval
  that was not used) is judged and recorded in the same transaction that stores it, so a revocation that was
  acknowledged comes before every later receipt, and nothing is spent or used twice;
* a question to a person is answered once, and the answer used once;
* whoever waits for a write waits a bounded time, and at most a bounded number wait.
"""

from __future__ import annotations

from chio_sidecar.store.base import (
    AlreadyAsked,
    AnswerOutcome,
    AppendOutcome,
    ApprovalAnswer,
    ApprovalRefused,
    ApprovalUse,
    ApprovalWait,
    BudgetExceeded,
    Charge,
    Conflict,
    Exhausted,
    Invocation,
    NewReceipt,
    Obligation,
    Obstacle,
    ReceiptStore,
    Revoked,
    StoreBusy,
    Stored,
    StoredApproval,
    StoredReceipt,
    StoreHealth,
    StoreUnavailable,
    TooManyWaiting,
)

__all__ = [
    "AlreadyAsked",
    "AnswerOutcome",
    "AppendOutcome",
    "ApprovalAnswer",
    "ApprovalRefused",
    "ApprovalUse",
    "ApprovalWait",
    "BudgetExceeded",
    "Charge",
    "Conflict",
    "Exhausted",
    "Invocation",
    "NewReceipt",
    "Obligation",
    "Obstacle",
    "ReceiptStore",
    "Revoked",
    "StoreBusy",
    "StoreHealth",
    "StoreUnavailable",
    "Stored",
    "StoredApproval",
    "StoredReceipt",
    "TooManyWaiting",
]
