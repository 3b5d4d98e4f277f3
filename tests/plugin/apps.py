"""Applications as users write them, in their own modules."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, WebSocket
from flask import Flask

from chio_fastapi import ChioReceipt, RequireCapability, add_chio
from chio_flask import Chio, require_capability


class Shop:
    """A FastAPI application that notes which of its handlers have run."""

    def __init__(self, *, governed: bool = True, **options: Any) -> None:
        self.ran: list[str] = []
        self.app = FastAPI()
        if governed:
            add_chio(self.app, **options)
        self._routes()

    def _routes(self) -> None:
        @self.app.get("/pets/{pet}")
        async def pet(pet: int) -> dict[str, int]:
            self.ran.append("pet")
            return {"pet": pet}

        @self.app.post("/transfers", dependencies=[Depends(RequireCapability("payments", "transfer"))])
        async def transfer() -> dict[str, str]:
            self.ran.append("transfer")
            return {"status": "transferred"}

        @self.app.post("/refunds")
        async def refund() -> dict[str, str]:
            self.ran.append("refund")
            return {"status": "refunded"}

        @self.app.websocket("/feed")
        async def feed(socket: WebSocket, receipt: ChioReceipt) -> None:
            await socket.accept()
            await socket.send_text(receipt.id)
            await socket.close()


def flask_app(**options: Any) -> Flask:
    app = Flask("tests.plugin.apps", static_folder=None)

    @app.get("/pets/<int:pet>")
    def pet(pet: int) -> dict[str, int]:
        return {"pet": pet}

    @app.post("/transfers")
    @require_capability("payments", "transfer")
    def transfer() -> dict[str, str]:
        return {"status": "transferred"}

    Chio(app, **options)
    return app
