"""What the tests of the carriers, the middleware and the dependencies share.

`Judge` is `tests.stub_sidecar` without a network, with verdicts that a test chooses. `StubClient` calls it directly,
`StubServer` lets it listen on a socket. `call` sends one request to an ASGI application, `serve` runs one under
uvicorn.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import uvicorn

from chio_asgi import ChioASGIConfig
from chio_core.client.client import ChioClient
from chio_core.evaluation.exchange import RawResponse
from tests.stub_sidecar import ALLOW, PUBLIC_KEY, Connection, Kernel, exact, http_response

DEADLINE = 20.0
"""Seconds after which a test that hangs has failed."""

T = TypeVar("T")
Question = dict[str, Any]
App = Callable[..., Coroutine[Any, Any, None]]
Headers = Iterable[tuple[bytes | str, bytes | str]]

QUESTION = (
    b'{"request_id":"r","method":"GET","route_pattern":"/","path":"/","caller":{"subject":"anonymous",'
    b'"auth_method":{"method":"anonymous"},"verified":false},"body_length":0,"timestamp":0}'
)
"""The smallest question that a judge can answer."""


def deny(reason: str = "denied by a test", status: int = 403) -> dict[str, Any]:
    return {"verdict": "deny", "reason": reason, "guard": "StubGuard", "http_status": status}


def allow_with_capability(question: Question, token: str | None) -> dict[str, Any]:
    """The default policy of a sidecar: safe methods pass, others need a token."""
    if question["method"] in ("GET", "HEAD", "OPTIONS") or token is not None:
        return ALLOW
    return deny("side-effect route requires a capability token")


def run(main: Coroutine[Any, Any, T], *, seconds: float = DEADLINE * 5) -> T:
    """Run a coroutine in a new loop, and let nothing of it hang or be left behind."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        # The loop's own tasks, which close forgotten generators of httpx, may still be running.
        left = {task for task in left if type(task.get_coro()).__name__ != "async_generator_athrow"}
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(bounded())


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without Chio's settings, and with these variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CHIO_")} | variables


# The sidecar


class Judge:
    """Answers `POST /chio/evaluate`.

    Args:
        verdict: gives the verdict for a question and the token's text; allows everything by default.
        pattern: gives the route pattern that the receipt states; the one that was asked for by default.
        tamper: changes the finished answer.
    """

    def __init__(
        self,
        verdict: Callable[[Question, str | None], Mapping[str, Any]] = lambda question, token: ALLOW,
        *,
        pattern: Callable[[Question], str] = lambda question: question["route_pattern"],
        tamper: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self._verdict = verdict
        self._pattern = pattern
        self._tamper = tamper
        self._kernel = Kernel(full=False, canonical=exact)
        self.questions: list[Question] = []
        self.tokens: list[str | None] = []
        self.trace: list[str | None] = []
        self.receipts: dict[str, Question] = {}

    @property
    def last(self) -> Question:
        return self.questions[-1]

    def answer(self, body: bytes, headers: Mapping[str, str]) -> bytes:
        question = json.loads(body)
        token = headers.get("x-chio-capability")
        self.questions.append(question)
        self.tokens.append(token)
        self.trace.append(headers.get("traceparent"))
        verdict = dict(self._verdict(question, token))
        changes = {
            "id": f"stub-{len(self.receipts):06d}",
            "route_pattern": self._pattern(question),
            "verdict": verdict,
            "evidence": [{"guard_name": "StubGuard", "verdict": verdict["verdict"] == "allow"}],
            "response_status": verdict.get("http_status", 200),
        }
        if token is not None and (identifier := _token_id(token)) is not None:
            changes["capability_id"] = identifier
        receipt = self._kernel.signed(self._kernel.receipt(question, **changes))
        self.receipts[receipt["id"]] = question
        answer = {"verdict": verdict, "receipt": receipt, "evidence": receipt["evidence"]}
        return json.dumps(self._tamper(answer) if self._tamper else answer).encode()


def _token_id(token: str) -> str | None:
    try:
        found = json.loads(token)["id"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def settings(**options: Any) -> ChioASGIConfig:
    """Options for a stub: its key pinned, nothing read from the machine."""
    return ChioASGIConfig(**{"trusted_kernel_keys": (PUBLIC_KEY,), "_env_file": None, **options})


class StubClient(ChioClient):
    """A client whose questions go straight to a judge."""

    def __init__(self, judge: Judge | None = None, **options: Any) -> None:
        super().__init__(settings(**options))
        self.judge = judge if judge is not None else Judge()
        self.closed = 0
        self.failure: Exception | None = None

    async def post(self, path: str, body: bytes, headers: Any = (), **more: Any) -> RawResponse:
        if self.failure is not None:
            raise self.failure
        text = self.judge.answer(body, {name.lower(): value for name, value in headers})
        return RawResponse(200, "application/json", text)

    async def aclose(self) -> None:
        self.closed += 1
        await super().aclose()


class StubServer:
    """A judge that listens in the running loop: `async with StubServer() as server: … server.url`.

    Args:
        path: Unix socket to listen on; a free TCP port of 127.0.0.1 otherwise.
        port: a certain port; 0 for a free one.
    """

    def __init__(self, judge: Judge | None = None, *, path: str | None = None, port: int = 0) -> None:
        self.judge = judge if judge is not None else Judge()
        self._path = path
        self.port = port
        self.accepted = 0
        self.open: set[asyncio.BaseTransport] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"unix:{self._path}" if self._path else f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        if self._path is not None:
            self._server = await loop.create_unix_server(lambda: _StubConnection(self), self._path, backlog=2048)
        else:
            self._server = await loop.create_server(
                lambda: _StubConnection(self), "127.0.0.1", self.port, backlog=2048, reuse_address=True
            )
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for transport in list(self.open):
            transport.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        await self._server.wait_closed()


class _StubConnection(Connection):
    def __init__(self, server: StubServer) -> None:
        super().__init__(lambda first, headers, body: http_response(server.judge.answer(body, headers)))
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.accepted += 1
        self._server.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.open.discard(self._transport)


# The application


@dataclass
class Reply:
    """What an ASGI application answered."""

    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(next(m for m in self.messages if m["type"].endswith("response.start"))["status"])

    @property
    def headers(self) -> list[tuple[str, str]]:
        start = next(m for m in self.messages if m["type"].endswith("response.start"))
        return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"]]

    def header(self, name: str) -> str | None:
        """The one value of a header; None without one."""
        values = self.header_lines(name)
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0] if values else None

    def header_lines(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def receipt(self) -> str | None:
        return self.header("x-chio-receipt")

    @property
    def complete(self) -> bool:
        """The whole answer was sent."""
        last = self.messages[-1] if self.messages else {}
        return last.get("type") == "http.response.body" and not last.get("more_body", False)

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.messages if m["type"].endswith("response.body"))

    def json(self) -> Any:
        return json.loads(self.body)


def http_scope(
    method: str = "GET", path: str = "/", *, query: bytes = b"", headers: Headers = (), **more: Any
) -> dict[str, Any]:
    pairs = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": pairs,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "state": {},
    } | more


def websocket_scope(path: str = "/", *, headers: Headers = (), denial: bool = True, **more: Any) -> dict[str, Any]:
    scope = http_scope("GET", path, headers=headers) | {"type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    scope["extensions"] = {"websocket.http.response": {}} if denial else {}
    return scope | more


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")


async def exchange(app: App, scope: dict[str, Any], messages: Sequence[Mapping[str, Any]]) -> Reply:
    """Give an application a scope and the messages that it may receive, then `http.disconnect` for ever."""
    reply, waiting = Reply(), list(messages)

    async def receive() -> dict[str, Any]:
        if waiting:
            return dict(waiting.pop(0))
        return {"type": "websocket.disconnect" if scope["type"] == "websocket" else "http.disconnect", "code": 1005}

    async def send(message: Mapping[str, Any]) -> None:
        reply.messages.append(dict(message))

    async with asyncio.timeout(DEADLINE):
        await app(scope, receive, send)
    return reply


async def call(
    app: App,
    method: str = "GET",
    path: str = "/",
    *,
    body: bytes | Sequence[bytes] = b"",
    query: bytes = b"",
    headers: Headers = (),
    **more: Any,
) -> Reply:
    """Send one request; a body that is a list comes in as many messages."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    messages = [
        {"type": "http.request", "body": piece, "more_body": number < len(pieces)}
        for number, piece in enumerate(pieces, 1)
    ]
    return await exchange(app, http_scope(method, path, query=query, headers=headers, **more), messages)


async def call_that_raises(app: App, error: type[Exception], method: str = "GET", path: str = "/") -> Reply:
    """Send one request to an application that raises, and return what it answered before or while it did."""
    reply = Reply()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        reply.messages.append(dict(message))

    try:
        await app(http_scope(method, path), receive, send)
    except error:
        return reply
    raise AssertionError(f"the application raised no {error.__name__}")


async def connect(app: App, path: str = "/", *messages: Mapping[str, Any], **more: Any) -> Reply:
    """Open a websocket and send the messages."""
    return await exchange(app, websocket_scope(path, **more), [{"type": "websocket.connect"}, *messages])


@asynccontextmanager
async def serve(app: App, **options: Any) -> AsyncIterator[int]:
    """Run an application under uvicorn in the running loop; gives the port.

    The socket listens before the server runs, so no client has to wait for it.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        listener.setblocking(False)
        config = uvicorn.Config(app, log_config=None, lifespan=options.pop("lifespan", "off"), **options)
        server = uvicorn.Server(config)
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def raw_http(port: int, data: bytes, *, half_close: bool = False, seconds: float = DEADLINE) -> bytes:
    """Send bytes to a port and return all that comes back until the server closes.

    Args:
        half_close: say that nothing follows, for requests whose end the server would wait for.
        seconds: after which it fails.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            await writer.drain()
            if half_close:
                writer.write_eof()
            return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()
