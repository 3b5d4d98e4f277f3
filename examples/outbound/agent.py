"""A service that calls two upstreams under the one capability of its caller.

The capability names the tools that its holder may use, and their hosts. The service only forwards it to the sidecar
with each send, and each send has its own receipt.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import Depends, FastAPI
from stand_in import transport

from chio_core.outbound import Cache, Timing, TraceId, receipt_of
from chio_fastapi import OutboundClient, add_chio

TOOLS = {
    "stock.example.com": ("stock", "read"),
    "pay.example.com": ("payments", "charge"),
}


def create_app() -> FastAPI:
    upstreams = OutboundClient(tools=TOOLS, members=[TraceId(), Timing(), Cache(ttl=60)], transport=transport)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with upstreams:
            yield

    app = FastAPI(title="orders", lifespan=lifespan)
    add_chio(app, sidecar_url=os.environ.get("CHIO_SIDECAR_URL", "http://127.0.0.1:9090"))

    @app.get("/orders/{item}")
    async def order(item: int, client: Annotated[httpx.AsyncClient, Depends(upstreams)], pay: bool = False) -> dict:
        stock = await client.get(f"https://stock.example.com/items/{item}")
        responses = [stock]
        if pay:
            charge = {"amount": stock.json()["price"]}
            responses.append(await client.post("https://pay.example.com/charges", json=charge))
        return {
            "responses": [response.json() for response in responses],
            "receipts": [receipt_of(response).id for response in responses],
        }

    return app
