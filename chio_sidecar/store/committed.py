"""CommittedStore: what the stores of all engines do alike; each adds how it writes, reads and lists."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from chio_core.concurrency.processes import PerProcess
from chio_sidecar.store import (
    AlreadyRequested,
    AppendOutcome,
    ApprovalRequest,
    ApprovalResponse,
    NewReceipt,
    ResponseOutcome,
    StoredApproval,
    StoredReceipt,
    TooManyWaiting,
)
from chio_sidecar.store.committer import CommitActivity, GroupCommitter
from chio_sidecar.store.issuers import check_revocable
from chio_sidecar.store.writes import SELECT_ONE, SELECT_OPEN, Append, Revoke, Write, approval_from_row


class CommittedStore(ABC):
    """Writes through one group committer in each process, and reads beside it.

    Args:
        make_committer: makes the committer of a process.
        columns: the statement that selects the columns of a `StoredReceipt`, without a condition.
        clock: seconds since 1970, for `created_at` and `revoked_at`.
    """

    def __init__(
        self, make_committer: Callable[[], GroupCommitter[Write]], *, columns: str, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._columns = columns
        self._committer: PerProcess[GroupCommitter[Write]] = PerProcess(make_committer)
        self._committer.get()  # its thread is started
        # Flush pending writes when the store is garbage-collected; the committer's atexit hook covers exit.
        weakref.finalize(self, _forget, self._committer).atexit = False

    @abstractmethod
    async def _read(self, sql: str, *parameters: object) -> Sequence[Any]:
        """Return the rows of a statement that reads.

        Raises:
            StoreUnavailable: the store cannot be read.
        """

    @property
    def metrics(self) -> CommitActivity:
        """Figures about the writing, a collector for `prometheus_client`."""
        return self._committer.get().activity

    async def append(self, entry: NewReceipt) -> AppendOutcome:
        """Store a receipt and return once it is durable, or return why it was not stored."""
        outcome: AppendOutcome = await self._committer.get().submit(Append(entry, self._clock()))
        return outcome

    async def get(self, receipt_id: str) -> StoredReceipt | None:
        """Return the receipt with this id, or None."""
        rows = await self._read(f"{self._columns} WHERE id = ?", receipt_id)
        return StoredReceipt(*rows[0]) if rows else None

    async def revoke(self, capability_id: str) -> bool:
        """Revoke a capability permanently; return True if it was not revoked before."""
        check_revocable(capability_id)
        newly: bool = await self._committer.get().submit(Revoke(capability_id, self._clock()))
        return newly

    async def is_revoked(self, capability_id: str) -> bool:
        """Return True if a capability was revoked."""
        return bool(await self._read("SELECT 1 FROM revoked_capabilities WHERE capability_id = ?", capability_id))

    async def authority_keys(self) -> frozenset[str]:
        """Return no key: the trust service keeps its authority in a file of its own."""
        return frozenset()

    async def request_approval(self, request: ApprovalRequest) -> AlreadyRequested | TooManyWaiting | None:
        """Store an approval request without a receipt; return None, or why it was not stored."""
        obstacle: AlreadyRequested | TooManyWaiting | None = await self._committer.get().submit(request)
        return obstacle

    async def respond(self, response: ApprovalResponse) -> ResponseOutcome:
        """Store a person's response permanently, and return `recorded`, or why it was not stored."""
        outcome: ResponseOutcome = await self._committer.get().submit(response)
        return outcome

    async def approval(self, approval_id: str) -> StoredApproval | None:
        """Return the approval request with this id and its state, or None."""
        rows = await self._read(SELECT_ONE, approval_id)
        return approval_from_row(rows[0]) if rows else None

    async def open_approvals(self, *, now: int, limit: int) -> Sequence[StoredApproval]:
        """Return at most `limit` approval requests that are pending at `now`, oldest first."""
        return [approval_from_row(row) for row in await self._read(SELECT_OPEN, now, limit)]


def _forget(committer: PerProcess[GroupCommitter[Write]]) -> None:
    found = committer.take()
    if found is not None:
        found.forget()
