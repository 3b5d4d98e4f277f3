"""An application in several workers that spends budgets: `uvicorn --factory tests.chaos.shared_application:create`.

Each handler that runs appends a line with the id of its receipt to the file HANDLED. LIMIT is the number of invocations
that the budget of `/pay` has for each capability.
"""

from __future__ import annotations

import os

from fastapi import Depends, FastAPI

from chio_fastapi import Budget, ChioReceipt, RequireCapability, add_chio


def record(receipt: ChioReceipt) -> None:
    # One write to a file opened for appending stays whole, also with four workers.
    handled = os.open(os.environ["HANDLED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handled, f"{receipt.id}\n".encode())
    os.close(handled)


def application(limit: int) -> FastAPI:
    app = FastAPI()
    budget = Budget(max_invocations=limit)
    app.post("/pay", dependencies=[Depends(RequireCapability("shop", "pay")), Depends(budget)])(record)
    app.post("/use", dependencies=[Depends(RequireCapability("shop", "use"))])(record)
    return app


def create() -> FastAPI:
    app = application(int(os.environ["LIMIT"]))
    add_chio(app)
    return app
