"""In the company of other middleware: no order of the layers changes an outcome or the hash of a body."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from chio_asgi import ChioASGIMiddleware
from chio_core import AnyResponse, GuardRequest, Next
from chio_core.errors import SidecarUnreachable
from chio_core.guards import SecurityHeaders, Stopwatch
from tests.support import ALLOW, Judge, Question, Reply, StubClient, call, deny, run

BODY = [b"x" * 700, b"", b"y" * 900]
HEADERS = [("host", "good.test"), ("origin", "https://page.test"), ("accept-encoding", "gzip")]


class Bouncer(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        answer.headers["x-bouncer"] = "1"
        return answer


class Reader(BaseHTTPMiddleware):
    """Reads the body before it goes on, as logging middleware does."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        await request.body()
        answer: Response = await call_next(request)
        return answer


OTHERS: Sequence[tuple[Any, dict[str, Any]]] = (
    (CORSMiddleware, {"allow_origins": ["https://page.test"]}),
    (GZipMiddleware, {"minimum_size": 100}),
    (SessionMiddleware, {"secret_key": "s" * 32}),
    (TrustedHostMiddleware, {"allowed_hosts": ["good.test"]}),
    (Bouncer, {}),
    (Reader, {}),
    (OpenTelemetryMiddleware, {}),
)


async def around(request: GuardRequest, next: Next) -> AnyResponse:
    return (await next(request)).with_header("x-around", "1")


GUARDS: Sequence[Callable[[], Sequence[Any]]] = (
    list,
    lambda: [around],
    lambda: [SecurityHeaders(), Stopwatch(on_time=lambda *what: None)],
    lambda: [SecurityHeaders(), around, around],
)


class World:
    """One application in one order of its layers."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.read: list[bytes] = []
        self.judge = Judge(self.verdict)
        self.client = StubClient(self.judge)
        self.guards = chance.choice(GUARDS)()
        self.own_500 = chance.random() < 0.5
        handlers: dict[Any, Any] = {LookupError: self.handled} | ({Exception: self.handled} if self.own_500 else {})
        routes = [Route(path, self.endpoint, methods=["GET", "POST"]) for path in ("/ok", "/known", "/unknown", "/no")]
        self.app = Starlette(routes=routes, exception_handlers=handlers)
        others = chance.sample(OTHERS, chance.randint(0, len(OTHERS)))
        layers = [*others, (ChioASGIMiddleware, {"client": self.client, "guards": self.guards})]
        chance.shuffle(layers)
        for layer, options in layers:
            self.app.add_middleware(layer, **options)
        self.order = [layer.__name__ for layer, _ in reversed(layers)]

    @staticmethod
    def verdict(question: Question, token: str | None) -> dict[str, Any]:
        return deny("not you", 451) if question["path"] == "/no" else ALLOW

    async def endpoint(self, request: Request) -> JSONResponse:
        self.read.append(await request.body())
        if request.url.path == "/known":
            raise LookupError("known")
        if request.url.path == "/unknown":
            raise ZeroDivisionError
        return JSONResponse({"receipt": request.state.chio_receipt.id, "padding": "z" * 2000})

    async def handled(self, request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse({"handled": type(exc).__name__}, 418 if isinstance(exc, LookupError) else 500)

    async def post(self, path: str) -> Reply:
        return await call(self.app, "POST", path, body=BODY, headers=HEADERS)


async def allowed(world: World) -> None:
    reply = await world.post("/ok")
    assert (reply.status, reply.receipt) == (200, "stub-000000")
    assert world.read == [b"".join(BODY)]
    assert world.judge.last["body_hash"] == hashlib.sha256(b"".join(BODY)).hexdigest()


async def denied(world: World) -> None:
    reply = await world.post("/no")
    assert (reply.status, reply.receipt) == (451, "stub-000000")
    assert world.read == []


async def unreachable(world: World) -> None:
    world.client.failure = SidecarUnreachable("nobody there")
    reply = await world.post("/ok")
    assert (reply.status, reply.receipt, world.read) == (503, None, [])


async def handled(world: World) -> None:
    reply = await world.post("/known")
    assert (reply.status, reply.receipt) == (418, "stub-000000")


async def failed(world: World) -> None:
    # Whoever has a handler for 500 answers outside of all middleware; else we answer, receipt included.
    replies: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        replies.append(message)

    with pytest.raises((ZeroDivisionError, BaseExceptionGroup)):
        await world.app(*_call("/unknown"), send)
    assert replies[0]["status"] == 500
    if not world.own_500:
        assert (b"x-chio-receipt", b"stub-000000") in replies[0]["headers"]


def _call(path: str) -> tuple[Any, Any]:
    from tests.support import http_scope

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    return http_scope("GET", path, headers=HEADERS), receive


@pytest.mark.slow  # 100 orders for each outcome, 5,000 at full size
@pytest.mark.parametrize("outcome", [allowed, denied, unreachable, handled, failed])
async def test_no_order_of_the_layers_changes_an_outcome(outcome: Callable[[World], Any], full_size: bool) -> None:
    for seed in range(5_000 if full_size else 100):
        world = World(seed)
        try:
            await outcome(world)
        except AssertionError as exc:
            exc.add_note(f"seed {seed}: {' > '.join(world.order)}, guards {world.guards}, own 500 {world.own_500}")
            raise


def test_the_layers_do_their_own_work_as_well() -> None:
    """Otherwise nothing above would have been tried."""
    seen, layers = set(), set()

    async def main() -> None:
        for seed in range(60):
            world = World(seed)
            reply = await world.post("/ok")
            seen.update(name for name, _ in reply.headers)
            layers.update(world.order)

    run(main())
    wanted = {"access-control-allow-origin", "content-encoding", "x-bouncer", "x-around", "x-frame-options"}
    assert wanted <= seen
    assert layers == {"ChioASGIMiddleware", *(layer.__name__ for layer, _ in OTHERS)}
