"""The metrics of a client as an ASGI application, to be mounted or served on a separate port."""

from __future__ import annotations

from chio_asgi.types import ASGIApp, Receive, Scope, Send
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.telemetry.metrics import CONTENT_TYPE


def metrics_app(client: ChioClient | SyncChioClient) -> ASGIApp:
    """Return an application that answers GET with the metrics of a client, for Prometheus.

        app.mount("/metrics", metrics_app(client))

    Inside of a governed application it is governed like any other route, so a scraper would need to be allowed there;
    exclude the path (`exclude_paths={"/metrics"}`) or serve this application elsewhere. It tells how much traffic
    there is and how it was judged, and protects that no further.

    Raises:
        ConfigurationError: the extra `metrics` is not installed.
    """
    client.metrics.render()  # a missing extra shows here, not at the first scrape

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            await _answer(scope["method"], client.metrics.render().encode(), send)

    return answer


async def _answer(method: str, page: bytes, send: Send) -> None:
    headers = [(b"content-type", CONTENT_TYPE.encode()), (b"cache-control", b"no-store")]
    status = 200
    if method not in ("GET", "HEAD"):
        status, page, headers = 405, b"", [(b"allow", b"GET, HEAD")]
    headers.append((b"content-length", b"%d" % len(page)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else page})
