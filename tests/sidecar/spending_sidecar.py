"""A process that spends as fast as it can: `spending_sidecar.py STORE NAME COUNT LIMIT APPROVAL_ID`.

It asks for COUNT payments on a budget of LIMIT invocations, then COUNT times for one payment that was approved once,
and prints how many of each were allowed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from chio_core.models.demands import BudgetDemand
from tests.sidecar.approval_tools import pay, request_payment, verdict
from tests.sidecar.sidecar_tools import sidecar


async def main(store: Path, name: str, count: int, limit: int, approval_id: str) -> None:
    budget = BudgetDemand(1, max_invocations=limit).to_wire()
    async with sidecar(store.parent, store_path=store) as app:
        spent = await asyncio.gather(
            *(request_payment(app, f"{name}-{number}", governed_intent=..., budget=budget) for number in range(count))
        )
        used = await asyncio.gather(*(pay(app, f"{name}-use-{number}", approval_id) for number in range(count)))
    allowed = sum(verdict(answer.document) == "allow" for answer in spent)
    print(allowed, sum(verdict(answer) == "allow" for answer in used))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
