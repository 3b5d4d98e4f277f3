"""Rows B3, B10, B11, B13 and B15: the bouncer outside and inside of Chio, and the body behind it."""

from __future__ import annotations

import hashlib
from typing import Any

import jwt
import pytest
from fastapi import FastAPI, File, Form, Request, Response, UploadFile
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import ALL_METHODS

from chio_core import AnyResponse, GuardRequest, Next
from chio_core.guards import IpAllow, IpBlock, JwtAuth, RateLimit, RequestId, SecurityHeaders, Stopwatch
from chio_core.guards.chain import Chain
from chio_fastapi import add_chio
from tests.chain.tools import Decide
from tests.support import Judge, StubClient, call, deny, raw_http, run, serve

# The class of the seed, unchanged.

BLOCKED_IPS = ["192.168.1.50"]


class SecurityBouncer(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next):  # type: ignore[no-untyped-def]
        # --- PHASE 1: INBOUND ---
        client_ip = request.client.host  # type: ignore[union-attr]
        if client_ip in BLOCKED_IPS:
            # Kill the request immediately.
            return Response(content="Banned", status_code=403)
        # --- THE HANDOFF ---
        response = await call_next(request)
        # --- PHASE 2: OUTBOUND ---
        # Force security headers onto EVERY single endpoint automatically.
        response.headers["X-Frame-Options"] = "DENY"
        return response


class Item(BaseModel):
    name: str


def application(place: str, judge: Judge | None = None, guards: Any = ()) -> tuple[FastAPI, StubClient]:
    app, client = FastAPI(), StubClient(judge)
    if place == "inside":
        app.add_middleware(SecurityBouncer)
    add_chio(app, client=client, guards=guards)
    if place == "outside":
        app.add_middleware(SecurityBouncer)

    @app.post("/echo")
    async def echo(item: Item, request: Request) -> dict[str, str]:
        return {"name": item.name, "receipt": request.state.chio_receipt.id}

    return app, client


async def around(request: GuardRequest, next: Next) -> AnyResponse:
    return await next(request)


@pytest.mark.parametrize("guards", [(), (around, SecurityHeaders())], ids=["alone", "with guards"])
@pytest.mark.parametrize("place", ["outside", "inside"])
def test_the_seeds_bouncer_works_outside_and_inside_of_chio(place: str, guards: Any) -> None:
    """B11: the body is still replayed, the receipt header and X-Frame-Options are there."""
    app, client = application(place, guards=guards)
    body = [b'{"name":', b' "x"', b"}"]
    reply = run(call(app, "POST", "/echo", body=body, headers=[("content-type", "application/json")]))
    assert reply.json() == {"name": "x", "receipt": "stub-000000"}
    assert (reply.status, reply.receipt, reply.header("x-frame-options")) == (200, "stub-000000", "DENY")
    assert client.judge.last["body_hash"] == hashlib.sha256(b"".join(body)).hexdigest()


@pytest.mark.parametrize(("place", "evaluations"), [("outside", 0), ("inside", 1)])
def test_the_seeds_bouncer_bans_outside_and_inside(place: str, evaluations: int) -> None:
    """B11: outside of Chio the sidecar is spared, inside a ban has a receipt."""
    app, client = application(place)
    reply = run(call(app, "POST", "/echo", client=("192.168.1.50", 1)))
    assert (reply.status, reply.body, len(client.judge.questions)) == (403, b"Banned", evaluations)
    assert (reply.receipt is not None) is bool(evaluations)


@pytest.mark.parametrize("place", ["outside", "inside"])
def test_the_sidecars_refusal_passes_the_seeds_bouncer(place: str) -> None:
    """B11"""
    app, _ = application(place, Judge(lambda question, token: deny("no", 451)))
    reply = run(call(app, "POST", "/echo", body=b"{}"))
    assert (reply.status, reply.receipt) == (451, "stub-000000")


def test_two_phases_around_a_hand_off() -> None:
    """B3"""
    trace: list[str] = []

    async def bouncer(request: GuardRequest, next: Next) -> AnyResponse:
        trace.append("inbound")
        answer = await next(request)
        trace.append("outbound")
        return answer

    app = FastAPI()
    add_chio(app, client=StubClient(), guards=[bouncer])
    app.get("/")(lambda: trace.append("handler"))
    run(call(app))
    assert trace == ["inbound", "handler", "outbound"]


SECRET = "a secret of thirty-two characters"
ORIGIN = "https://page.test"


def with_cors(judge: Judge | None = None) -> FastAPI:
    app = FastAPI()
    guards = [JwtAuth(key=SECRET, algorithms=["HS256"]), RateLimit("3/minute"), IpBlock(BLOCKED_IPS)]
    add_chio(app, client=StubClient(judge), guards=guards)
    app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], allow_methods=ALL_METHODS, allow_headers=["*"])

    @app.get("/")
    async def handler() -> None: ...

    return app


def test_with_cors_outermost_refusals_reach_the_page_and_preflights_are_answered() -> None:
    """B10: 403, 401, 429 and the sidecar's own."""
    app = with_cors(Judge(lambda question, token: deny("no")))
    token = jwt.encode({"sub": "a", "exp": 4_000_000_000}, SECRET)
    known = [("origin", ORIGIN), ("authorization", f"Bearer {token}")]

    async def main() -> list[tuple[int, str | None, str | None]]:
        replies = [
            await call(app, headers=known, client=("192.168.1.50", 1)),
            await call(app, headers=[("origin", ORIGIN)]),
            *[await call(app, headers=known) for _ in range(3)],
        ]
        return [(reply.status, reply.header("access-control-allow-origin"), reply.receipt) for reply in replies]

    assert run(main()) == [
        (403, ORIGIN, None),
        (401, ORIGIN, None),
        (403, ORIGIN, "stub-000000"),
        (403, ORIGIN, "stub-000001"),
        (429, ORIGIN, None),
    ]
    preflight = [("origin", ORIGIN), ("access-control-request-method", "GET")]
    reply = run(call(app, "OPTIONS", headers=preflight, client=("192.168.1.50", 1)))
    assert (reply.status, reply.header("access-control-allow-origin")) == (200, ORIGIN)


def test_the_bundled_guards_have_the_recommended_order_by_default() -> None:
    """B13: whatever order they are given in; limit before token check, both before the decision."""
    given = [
        JwtAuth(key=SECRET, algorithms=["HS256"]),
        RateLimit("5/minute"),
        IpAllow(["::/0"]),
        SecurityHeaders(),
        RequestId(),
        Stopwatch(),
    ]
    chain = Chain(*given, Decide(), RateLimit("5/minute", key="caller"))
    assert chain.check()[0].message == (
        "stopwatch (-100) → request_id (-95) → security_headers (-90) → ip_allow (-80) → rate_limit (-60) → "
        "jwt_auth (-50) → rate_limit (-40) → decide (0)"
    )


def test_what_fastapi_adds_last_runs_first() -> None:
    """B13: so CORS is added after Chio."""
    app = with_cors()
    assert [getattr(entry.cls, "__name__", "") for entry in app.user_middleware] == [
        "CORSMiddleware",
        "ChioASGIMiddleware",
    ]


# B15: bodies behind guards of both shapes, the hash over all bytes


def reader(client: StubClient) -> FastAPI:
    app = FastAPI()
    add_chio(app, client=client, guards=[Stopwatch(on_time=lambda *what: None), SecurityHeaders(), around])

    @app.post("/whole")
    async def whole(request: Request) -> str:
        return hashlib.sha256(await request.body()).hexdigest()

    @app.post("/stream")
    async def stream(request: Request) -> str:
        digest = hashlib.sha256()
        async for piece in request.stream():
            digest.update(piece)
        return digest.hexdigest()

    @app.post("/form")
    async def form(name: str = Form()) -> str:
        return name

    @app.post("/upload")
    async def upload(upload: UploadFile = File()) -> str:  # noqa: B008
        return hashlib.sha256(await upload.read()).hexdigest()

    return app


BODIES = [b"", b"x", b"x" * 3_000_000, [bytes([n]) * 997 for n in range(50)], [b"", b"a", b"", b"b", b""]]


@pytest.mark.parametrize("path", ["/whole", "/stream"])
@pytest.mark.parametrize("body", BODIES, ids=["0 B", "1 B", "3 MB", "50 chunks", "empty chunks"])
def test_the_endpoint_reads_the_bytes_that_were_hashed(path: str, body: Any) -> None:
    """B15"""
    client = StubClient()
    reply = run(call(reader(client), "POST", path, body=body))
    whole = body if isinstance(body, bytes) else b"".join(body)
    assert reply.json() == hashlib.sha256(whole).hexdigest()
    assert client.judge.last.get("body_hash") == (hashlib.sha256(whole).hexdigest() if whole else None)
    assert client.judge.last["body_length"] == len(whole)


def test_forms_and_uploads_are_read_after_the_decision() -> None:
    """B15"""
    client = StubClient()
    form = run(
        call(
            reader(client),
            "POST",
            "/form",
            body=[b"name=", b"chio"],
            headers=[("content-type", "application/x-www-form-urlencoded")],
        )
    )
    assert form.json() == "chio"
    part = b'--B\r\ncontent-disposition: form-data; name="upload"; filename="f"\r\n\r\n' + b"y" * 2_000_000
    multipart = [("content-type", "multipart/form-data; boundary=B")]
    upload = run(call(reader(client), "POST", "/upload", body=[part, b"\r\n--B--\r\n"], headers=multipart))
    assert upload.json() == hashlib.sha256(b"y" * 2_000_000).hexdigest()


def test_a_chunked_transfer_arrives_whole() -> None:
    """B15 on the wire"""
    client = StubClient()
    head = b"POST /stream HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (b"abc", b"d" * 100_000, b"e"))

    async def main() -> bytes:
        async with serve(reader(client)) as port:
            return await raw_http(port, head + chunks + b"0\r\n\r\n")

    expected = hashlib.sha256(b"abc" + b"d" * 100_000 + b"e").hexdigest()
    assert expected.encode() in run(main())
    assert client.judge.last["body_hash"] == expected
