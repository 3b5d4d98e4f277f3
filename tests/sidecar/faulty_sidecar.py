"""A process that evaluates while its disk may fail, and prints its responses: `faulty_sidecar.py STORE COUNT`.

Each line is written at once: `status receipt-id` of an evaluation, with `-` without a receipt; `health status` at the
end; and `refused …` when the store could not even be opened. After COUNT evaluations it goes on until two in a row are
answered, a few times at most.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from chio_core.errors import ChioError
from chio_sidecar.app import SidecarApp
from tests.sidecar.sidecar_tools import evaluate, send, sidecar

AFTERWARDS = 8
IN_A_ROW = 2


async def ask(app: SidecarApp, name: str) -> bool:
    answer = await evaluate(app, request_id=name)
    say(f"{answer.status} {answer.document['receipt']['id'] if answer.status == 200 else '-'}")
    return answer.status == 200


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def main(store: Path, count: int) -> None:
    async with sidecar(store.parent, store_path=store) as app:
        for number in range(count):
            await ask(app, f"{os.getpid()}-{number}")
        answered = 0
        for number in range(AFTERWARDS):
            answered = answered + 1 if await ask(app, f"{os.getpid()}-after-{number}") else 0
            if answered == IN_A_ROW:
                break
        health = await send(app, "GET", "/chio/health")
        say(f"health {health.status}")


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
    except ChioError as exc:
        say(f"refused {exc.message}")
        raise SystemExit(3) from None
