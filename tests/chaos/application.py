"""The application of the long tests as a process: `uvicorn tests.chaos.application:app`, governed as `CHIO_*` says.

Each handler that runs appends `NUMBER REQUEST_ID RECEIPT_ID PID` to the file `HANDLED`.
"""

from __future__ import annotations

import asyncio
import os

from fastapi import FastAPI, WebSocket

from chio_fastapi import ChioReceipt, add_chio

_HANDLED = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND)

app = FastAPI()


@app.get("/work/{number}")
async def work(number: int, receipt: ChioReceipt) -> int:
    """Report that it ran."""
    os.write(_HANDLED, f"{number} {receipt.request_id} {receipt.id} {os.getpid()}\n".encode())
    return number


@app.get("/tasks")
async def tasks() -> int:
    """Return the number of tasks of this process."""
    return len(asyncio.all_tasks())


@app.post("/upload")
async def upload() -> None:
    """Take a body."""


@app.websocket("/talk/{number}")
async def talk(socket: WebSocket, number: int) -> None:
    """Say a word."""
    await socket.accept()
    await socket.send_text("ok")
    await socket.close()


add_chio(app)
