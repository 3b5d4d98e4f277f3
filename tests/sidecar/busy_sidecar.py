"""A process that evaluates as fast as it can: `busy_sidecar.py STORE NAME COUNT AT_ONCE`.

Each acknowledged receipt id is written to standard output at once, so a reader sees exactly what was acknowledged,
however the process ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from tests.sidecar.sidecar_tools import decision, sidecar


async def main(store: Path, name: str, count: int, at_once: int) -> None:
    numbers = iter(range(count))

    async with sidecar(store.parent, store_path=store) as app:

        async def ask_on() -> None:
            for number in numbers:
                answer = await decision(app, request_id=f"{name}-{number}")
                os.write(1, f"{answer['receipt']['id']}\n".encode())

        await asyncio.gather(*(ask_on() for _ in range(at_once)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
