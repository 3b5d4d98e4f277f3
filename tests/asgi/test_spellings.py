"""No spelling of a request gets around the rule of the route that runs (A6), through a real server.

`spellings.json` holds two lists: targets, each sent in a GET and a POST, and whole requests, byte for byte (as
Latin-1). The sidecar of this test knows the application's OpenAPI document and forbids what starts with
`/admin`. Whatever a server makes of the bytes, these must hold:

* an endpoint that ran with a receipt is the one whose template that receipt's evaluation named;
* an endpoint that ran without one is the excluded one, asked for by exactly its path;
* nothing forbidden ran, however it was spelled;
* the hash of the body that was evaluated is that of the body that the endpoint read.

HEAD is a separate method in the protocol (wire protocol, section 6.2): the sidecar has no rule for it unless
its document lists one.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from chio_asgi import ChioASGIMiddleware
from chio_sidecar.policy.routes import RouteTable
from tests.mutations import mutated
from tests.support import ALLOW, Judge, Question, StubClient, deny, raw_http, run, serve

SPELLINGS = json.loads(Path(__file__).with_name("spellings.json").read_text())
TARGETS: list[str] = [target for group in SPELLINGS["targets"].values() for target in group]
REQUESTS: list[dict[str, Any]] = SPELLINGS["requests"]

EXCLUDED = "/healthz"


@dataclass
class Ran:
    """One endpoint that ran."""

    template: str
    path: str
    method: str
    receipt: str | None
    body_hash: str | None


@dataclass
class World:
    """An application, what ran in it, and its sidecar."""

    app: Any
    judge: Judge
    templates: list[str]
    ran: list[Ran] = field(default_factory=list)


ROUTES = ["/healthz", "/admin", "/admin/{item}", "/flat/{rest:path}", "/pets/mine", "/pets/{pet_id}", "/echo"]


def endpoint(world: list[World], template: str) -> Any:
    async def handler(request: Request) -> Response:
        body = await request.body()
        receipt = getattr(request.state, "chio_receipt", None)
        digest = hashlib.sha256(body).hexdigest() if body else None
        ran = Ran(template, request.scope["path"], request.method, receipt.id if receipt else None, digest)
        world[0].ran.append(ran)
        return JSONResponse({"template": template})

    return handler


def routed_fastapi(world: list[World], prefix: str, root_path: str = "") -> FastAPI:
    app, api, inner = FastAPI(openapi_url=None), APIRouter(), APIRouter()
    app.root_path = root_path
    for path in ROUTES:
        formatted = Route(path, Response()).path_format
        app.add_api_route(path, endpoint(world, prefix + formatted), methods=["GET", "POST"])
        inner.add_api_route(path, endpoint(world, f"{prefix}/api/v1{formatted}"), methods=["GET", "POST"])
    api.include_router(inner, prefix="/v1")
    app.include_router(api, prefix="/api")
    return app


def nested_routers(world: list[World], **options: Any) -> Any:
    app = routed_fastapi(world, "")
    app.mount("/m", routed_fastapi(world, "/m"))
    return app, ["", "/api/v1", "/m", "/m/api/v1"]


def own_root_path(world: list[World]) -> Any:
    return routed_fastapi(world, "", "/r"), ["", "/api/v1"]


def starlette(world: list[World]) -> Any:
    def routes(prefix: str) -> list[Any]:
        return [
            Route(path, endpoint(world, prefix + Route(path, Response()).path_format), methods=["GET", "POST"])
            for path in ROUTES
        ]

    return Starlette(routes=[*routes(""), Mount("/m", routes=routes("/m"))]), ["", "/m"]


def table_of(templates: list[str]) -> RouteTable:
    operations = {"get": {"x-chio-side-effects": False}, "post": {"x-chio-side-effects": False}}
    info = {"title": "spellings", "version": "1"}
    document = {"openapi": "3.1.0", "info": info, "paths": dict.fromkeys(templates, operations)}
    return RouteTable.from_openapi(json.dumps(document))


def world_of(build: Any, inside: bool) -> World:
    known: list[World] = []
    app, prefixes = build(known)
    templates = [prefix + Route(path, Response()).path_format for prefix in prefixes for path in ROUTES]
    table = table_of(templates)

    def pattern(question: Question) -> str:
        return table.match(question["method"], question["path"]).pattern

    def verdict(question: Question, token: str | None) -> Any:
        forbidden = any(pattern(question).startswith(prefix + "/admin") for prefix in prefixes)
        return deny("forbidden") if forbidden else ALLOW

    judge = Judge(verdict, pattern=pattern)
    client = StubClient(judge, exclude_paths=frozenset({EXCLUDED}), exclude_methods=frozenset(), max_body_bytes=1000)
    if inside:
        app.add_middleware(ChioASGIMiddleware, client=client)
    else:
        app = ChioASGIMiddleware(app, client=client)
    known.append(World(app, judge, templates))
    return known[0]


def check(world: World, sent: str, answer: bytes) -> None:
    for ran in world.ran:
        if ran.receipt is None:
            assert (ran.template, ran.path.removeprefix("/r")) == (EXCLUDED, EXCLUDED), sent
            continue
        asked = world.judge.receipts[ran.receipt]
        assert asked["route_pattern"] == ran.template, sent
        assert asked["method"] == ran.method, sent
        assert asked.get("body_hash") == ran.body_hash, sent
        assert ran.method == "HEAD" or "/admin" not in ran.template, sent
    world.ran.clear()


WORLDS = [(nested_routers, True), (nested_routers, False), (own_root_path, False), (starlette, True)]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("build", "inside"), WORLDS, ids=[f"{b.__name__}-{'inside' if i else 'outside'}" for b, i in WORLDS]
)
def test_the_endpoint_that_ran_is_the_one_that_was_evaluated(build: Any, inside: bool, http: str) -> None:
    assert len(TARGETS) + len(REQUESTS) >= 250
    world = world_of(build, inside)
    prefix = "/r" if build is own_root_path else ""
    served: set[str] = set()

    async def send(port: int, text: str, unfinished: bool = False) -> bytes:
        answer = await raw_http(port, text.encode("latin-1"), half_close=unfinished)
        served.update(ran.template for ran in world.ran)
        check(world, text, answer)
        return answer

    async def main() -> None:
        async with serve(world.app, http=http, ws="none", timeout_keep_alive=1) as port:
            for target in TARGETS:
                for method in ("GET", "POST"):
                    for spelled in dict.fromkeys([target, prefix + target]):
                        await send(port, f"{method} {spelled} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            for request in REQUESTS:
                tokens = len(world.judge.tokens)
                answer = await send(port, request["send"], request.get("unfinished", False))
                if request.get("refused"):
                    assert answer[:12] in (b"HTTP/1.1 400", b""), request["about"]
                if request.get("no_token"):
                    assert set(world.judge.tokens[tokens:]) <= {None}, request["about"]

    run(main(), seconds=300)
    allowed = {template for template in world.templates if "/admin" not in template}
    assert allowed <= served, "every allowed route ran at least once"


@pytest.mark.slow  # 1,200 requests, and 200,000 at full size
@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize(
    ("build", "inside"), WORLDS, ids=[f"{b.__name__}-{'inside' if i else 'outside'}" for b, i in WORLDS]
)
def test_no_generated_bytes_run_an_endpoint_that_was_not_evaluated(
    build: Any, inside: bool, http: str, full_size: bool
) -> None:
    world = world_of(build, inside)
    chance = random.Random(f"{build.__name__} {inside} {http}")
    known = [request["send"].encode("latin-1") for request in REQUESTS]
    framed = "{} {} HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    for method, header in itertools.product(
        ("GET", "POST", "HEAD"), ("X: y", "Content-Length: 2", "Transfer-Encoding: chunked")
    ):
        known += [framed.format(method, path, header).encode("latin-1") for path in [*TARGETS, *world.templates * 4]]
    served: Counter[str] = Counter()

    async def main() -> None:
        async with serve(world.app, http=http, ws="none", timeout_keep_alive=1) as port:
            for _ in range(25_000 if full_size else 150):
                sent = mutated(chance, chance.choice(known), elsewhere=0.2)
                answer = await raw_http(port, sent, half_close=True)
                served.update(ran.template for ran in world.ran)
                check(world, repr(sent), answer)
        check(world, "those whose response was not waited for", b"")

    run(main(), seconds=3600)
    assert len(served) >= 4, "many endpoints ran"


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("root", ["", "/api", "/api/v1", "/admin"])
def test_the_same_behind_a_root_path_of_the_server(http: str, root: str) -> None:
    world = world_of(starlette, True)

    async def main() -> None:
        async with serve(world.app, http=http, ws="none", root_path=root) as port:
            for target in TARGETS:
                text = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                answer = await raw_http(port, text.encode("latin-1"))
                for ran in world.ran:
                    ran.path = ran.path.removeprefix(root)
                check(world, text, answer)

    run(main(), seconds=300)


async def test_requests_in_one_packet_are_evaluated_one_by_one() -> None:
    world = world_of(starlette, True)
    one = "GET {} HTTP/1.1\r\nHost: a\r\n\r\n"
    packet = "".join(one.format(path) for path in ("/pets/7", "/admin", "/healthz", "/pets/mine"))
    async with serve(world.app, ws="none") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(packet.encode() + b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert re.findall(rb"HTTP/1\.1 (\d+)", answer) == [b"200", b"403", b"200", b"200", b"404"]
        assert [ran.template for ran in world.ran] == ["/pets/{pet_id}", "/healthz", "/pets/mine"]
        check(world, packet, answer)
