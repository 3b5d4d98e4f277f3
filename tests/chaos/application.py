"""The application of the long tests as a process: `uvicorn tests.chaos.application:app`, governed as `CHIO_*` says.

Each handler that runs appends `NUMBER REQUEST_ID RECEIPT_ID PID` to the file `HANDLED`.
"""

from __future__ import annotations

import os

from fastapi import FastAPI

from chio_fastapi import ChioReceipt, add_chio

_HANDLED = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND)

app = FastAPI()


@app.get("/work/{number}")
async def work(number: int, receipt: ChioReceipt) -> int:
    """Report that it ran."""
    os.write(_HANDLED, f"{number} {receipt.request_id} {receipt.id} {os.getpid()}\n".encode())
    return number


add_chio(app)
