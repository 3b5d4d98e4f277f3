"""A governed HTTP server out of bytes and a socket. No framework: the same core, seen through a fourth view.

    python examples/raw-sockets/middleware.py        and open http://127.0.0.1:8022/
    curl -i http://127.0.0.1:8022/hello

`plain.py` beside it is the smallest form, on `socket` alone; this one has the chain, bodies and streams. It reads one
request a connection, of one small piece, and is here to be read; do not put it on a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote

from chio_core import AnyResponse, Chain, ChioClient, ChioSettings, Denial, GuardRequest, Next, Response
from chio_core.canonical import sha256_hex
from chio_core.evaluation.amounts import Facts
from chio_core.evaluation.exchange import EvaluateCall
from chio_core.evaluation.governed import NO_MATCH, GovernedRequest, KnownBody, RouteMatch, run_async
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.pipeline import Pipeline
from chio_core.guards import IpBlock
from chio_core.guards.chain import DecisionMember
from chio_core.guards.run import ChainRun
from chio_core.refusals.problems import render
from chio_core.refusals.streams import Body, StreamReader
from chio_core.request import HeaderLines

LARGEST = 64 * 1024
PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")


class SocketRequest:
    """The view: a request as it came over the wire. The whole adapter is this class, `Steps` and `Door`."""

    def __init__(self, head: bytes, body: bytes, peer: str) -> None:
        line, *lines = head.decode("latin-1").split("\r\n")
        self.method, target, _ = line.split(" ")
        path, _, self.query_string = target.partition("?")
        self.route_path = self.url_path = self.path = unquote(path)
        self.lines = HeaderLines((name, value.strip()) for name, _, value in (text.partition(":") for text in lines))
        self.client_host: str | None = peer
        self.url_scheme = "http"
        self.url_full = f"http://{self.lines.get('host', 'localhost')}{target}"
        self.state: Any = SimpleNamespace()
        self.scope: dict[str, Any] = {}
        self.bytes = body

    def url_replace_scheme(self, scheme: str) -> str:
        """Return the URL with another scheme."""
        return scheme + self.url_full.removeprefix("http")

    @property
    def headers(self) -> Mapping[str, str]:
        """Header lines, case-insensitive."""
        return self.lines

    @property
    def query_params(self) -> Mapping[str, str]:
        """Decoded query; of duplicates the last counts."""
        return dict(parse_qsl(self.query_string, keep_blank_values=True))

    async def body(self) -> bytes:
        """Return the whole body."""
        return self.bytes

    def set_header(self, name: str, value: str) -> None:
        """Replace a header."""
        kept = [(key, self.lines[key]) for key in self.lines if key != name.lower()]
        self.lines = HeaderLines([*kept, (name, value)])

    def replace_body(self, data: bytes) -> None:
        """Replace the body."""
        self.bytes = data

    def header_values(self, name: str) -> Sequence[str]:
        """Return each line of a header by itself."""
        return self.lines.values_of(name)

    def repeated_headers(self) -> Collection[str]:
        """Return the headers that occur in more than one line."""
        return self.lines.repeated

    def select_headers(self, names: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the lines of these headers."""
        return self.lines.select(names)


class Steps:
    """How this server does the steps of `chio_core.evaluation.pipeline`: it has the body already, and no routes."""

    def __init__(self, view: SocketRequest, client: ChioClient) -> None:
        self.view = view
        self.governed = GovernedRequest()
        self.client = client

    def now(self) -> SocketRequest:
        """Return the request; nothing changes it."""
        return self.view

    def keep_body(self) -> None:
        """The view has the body."""

    async def read_body(self) -> KnownBody:
        """Return length and hash of the body."""
        body = self.view.bytes
        return KnownBody(len(body), sha256_hex(body) if body else None)

    async def raw_body(self) -> bytes:
        """Return the body."""
        return self.view.bytes

    def body_hash(self) -> str | None:
        """Return the hash of the body."""
        return self.governed.body.hash if self.governed.body is not None else None

    def locate(self) -> RouteMatch:
        """Return no route: the sidecar evaluates plain paths."""
        return NO_MATCH

    async def compute(self, function: Callable[[], Any], facts: Facts) -> Any:
        """Return the result of a function."""
        return function()

    async def send(self, call: EvaluateCall) -> Decision:
        """Send the call to the sidecar."""
        return await self.client.evaluate(call)

    def publish(self, decision: Decision) -> None:
        """Leave the receipt for the response."""
        self.view.state.chio_receipt = decision.handler_receipt

    async def call_hook(self, hook: Callable[[Any], Any], value: Any) -> None:
        """This server has no hooks."""


class Evaluate(DecisionMember):
    """The decision in the chain."""

    def __init__(self, client: ChioClient) -> None:
        self.client = client
        self.pipeline = Pipeline(client.settings)

    async def __call__(self, request: SocketRequest) -> Denial | None:
        """Return the refusal, or None for a verified allow."""
        return await run_async(self.pipeline.govern(Steps(request, self.client)))


async def bouncer(request: GuardRequest, next: Next) -> AnyResponse:
    """The two phases of a middleware, around the hand-off."""
    # PHASE 1, INBOUND: the request has come in and nothing inside knows of it yet.
    # A request that is refused here never wakes the router; this one only looks at the clock.
    started = time.perf_counter()

    answer = await next(request)

    # PHASE 2, OUTBOUND: the endpoint is done, its answer is on the way out.
    # A header is put on its head; the body behind it is not touched.
    elapsed = (time.perf_counter() - started) * 1000
    return answer.with_header("X-Frame-Options", "DENY").with_header("Server-Timing", f"app;dur={elapsed:.1f}")


async def route(request: GuardRequest) -> Response:
    """The application: what a router and its endpoints would be."""
    if request.url_path == "/":
        return Response(PAGE, 200, [("content-type", "text/html; charset=utf-8")])
    if request.url_path == "/hello":
        return Response('{"message": "hello from a socket"}', 200, [("content-type", "application/json")])
    return Response("not here", 404, [("content-type", "text/plain")])


class Door:
    """The driver: bytes in, the chain around the application, bytes out."""

    def __init__(self, client: ChioClient, blocked: Sequence[str]) -> None:
        self.members = Chain(IpBlock(blocked), Evaluate(client)).add(bouncer, priority=-100).freeze()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
            length = next((int(value) for value in _values(head, b"content-length")), 0)
            body = await reader.readexactly(length if length <= LARGEST else 0)
            request = SocketRequest(head, body, writer.get_extra_info("peername")[0])
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        else:
            answer = await ChainRun(self.members, route, [])(request)
            with contextlib.suppress(ConnectionError):
                await send(answer, getattr(request.state, "chio_receipt", None), writer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()


def _values(head: bytes, name: bytes) -> list[bytes]:
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return [value.strip() for key, _, value in lines if key.lower() == name]


async def send(answer: AnyResponse, receipt: Any, writer: asyncio.StreamWriter) -> None:
    """Write a response as HTTP/1.1, the receipt's id among its headers; a stream piece by piece, until it is closed."""
    body: Body = b""
    headers: Sequence[tuple[str, str]] = answer.headers
    if isinstance(answer, Denial):
        body, headers = render(answer)
    elif isinstance(answer, Response):
        body, headers = answer.body, answer.head()
    lines = [f"HTTP/1.1 {answer.status} ", "connection: close", *(f"{name}: {value}" for name, value in headers)]
    if receipt is not None:
        lines.append(f"x-chio-receipt: {receipt.id}")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    if isinstance(body, bytes):
        writer.write(body)
        return
    reader = StreamReader(body)
    try:
        async for piece in reader:
            writer.write(piece)
            await writer.drain()  # raises ConnectionError once the client is gone
    finally:
        await reader.aclose()


async def main() -> None:
    """Listen on RAW_SOCKETS_PORT (8022) of 127.0.0.1; RAW_SOCKETS_BLOCKED lists who may not enter."""
    settings = ChioSettings(sidecar_url=os.environ.get("CHIO_SIDECAR_URL", "embedded:raw-sockets.sqlite3"))
    blocked = os.environ.get("RAW_SOCKETS_BLOCKED", "192.168.1.50").split(",")
    async with ChioClient(settings) as client:
        client.open()  # a store that cannot be used ends it now, not at the first request
        server = await asyncio.start_server(
            Door(client, blocked).serve, "127.0.0.1", int(os.environ.get("RAW_SOCKETS_PORT", "8022")), limit=LARGEST
        )
        print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
