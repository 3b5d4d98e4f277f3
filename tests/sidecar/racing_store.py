"""A process that appends to a store in PostgreSQL, to race with others, or to be killed.

Arguments: URL, name of the racer, number of appends, and what they share: `budget`, `uses`, `approvals`, `ids` or
`nothing`. It prints the request id of each receipt that this process has stored, as soon as that is acknowledged.
"""

from __future__ import annotations

import asyncio
import sys

from chio_sidecar.store import ApprovalUse, Charge, Invocation, NewReceipt, Obligation, Stored
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.store import PostgresqlReceiptStore


def spent(shared: str, index: int) -> tuple[Obligation, ...]:
    """Return what an append spends; every racer spends the same."""
    if shared == "budget":
        return (Charge("account", 1, "USD", "POST /pay", 100, None),)
    if shared == "uses":
        return (Invocation("cap-1", 0, 100),)
    return (ApprovalUse(f"apr-{index}", f"intent-{index}", 1002),) if shared == "approvals" else ()


async def race(url: str, name: str, number: int, shared: str) -> None:
    store = PostgresqlReceiptStore(DatabasePlace.parse(url), busy_seconds=20)
    room = asyncio.Semaphore(32)

    async def one(index: int) -> None:
        request = f"{index}" if shared == "ids" else f"{name}-{index}"
        receipt = NewReceipt(f"{name}-{index}", request, "same", "{}", obligations=spent(shared, index))
        async with room:
            outcome = await store.append(receipt)
        if isinstance(outcome, Stored) and outcome.fresh:
            print(request, flush=True)

    await asyncio.gather(*map(one, range(number)))
    await store.close()


if __name__ == "__main__":
    asyncio.run(race(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
