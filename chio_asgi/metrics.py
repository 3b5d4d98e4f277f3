"""The metrics of a client as an ASGI application, to be mounted or served on a separate port."""

from __future__ import annotations

from chio_asgi.types import ASGIApp, Receive, Scope, Send
from chio_core.client.client import ChioClient, SyncChioClient
from chio_core.telemetry.metrics import CONTENT_TYPE


def metrics_app(client: ChioClient | SyncChioClient) -> ASGIApp:
    """Return an application whose GET responds with the metrics of a client, for Prometheus.

    For example::

        app.mount("/metrics", metrics_app(client))

    In a governed application it is governed like any other route, so the sidecar must allow the scraper: exclude the
    path (`exclude_paths={"/metrics"}`), or serve this application on another port. It shows the amount of traffic and
    its decisions to every client that reaches it.

    Raises:
        ConfigurationError: the extra `metrics` is not installed.
    """
    client.metrics.render()  # a missing extra shows here, not at the first scrape

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            status, page = 200, client.metrics.render().encode()
            headers = [(b"content-type", CONTENT_TYPE.encode()), (b"cache-control", b"no-store")]
            if scope["method"] not in ("GET", "HEAD"):
                status, page, headers = 405, b"", [(b"allow", b"GET, HEAD")]
            headers.append((b"content-length", b"%d" % len(page)))
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else page})

    return respond
