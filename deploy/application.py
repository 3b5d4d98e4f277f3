"""The application of compose.yaml: the routes of examples/hello-fastapi, and metrics for Prometheus."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel

from chio_asgi import ChioASGIMiddleware, metrics_app
from chio_core import ChioClient, ChioSettings


class Echo(BaseModel):
    """The body of a request to /echo, and of its response."""

    message: str
    count: int = 1


# CHIO_SIDECAR_URL and CHIO_EVALUATE_TOKEN are in the environment. A scrape is no request to decide about.
client = ChioClient(ChioSettings(exclude_prefixes="/metrics"))
app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
app.add_middleware(ChioASGIMiddleware, client=client)
app.mount("/metrics", metrics_app(client))


@app.get("/hello")
async def hello() -> dict[str, str]:
    """Allowed to all."""
    return {"message": "hello from fastapi"}


@app.post("/echo")
async def echo(echoed: Echo) -> Echo:
    """Allowed with a capability."""
    return echoed
