"""Listed and generated applications and requests: the endpoint that runs is the one whose rule was evaluated (A6, A7).

Each route has a rule. Some of FastAPI's require a capability for a tool of their own; of the others, the sidecar
forbids those with certain templates. Callers present the capability of any route, or none.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from functools import cache
from typing import Any
from zlib import crc32

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Host, Mount, Route, Router

from chio_fastapi import RequireCapability
from tests.asgi.routes import govern, govern_inside, says
from tests.support import ALLOW, Judge, Question, call, deny, run
from tests.tokens import token

SEGMENTS = ["a", "b", "A", "a.b", "{x}", "{y:int}", "{z:path}", "pre{q}", "{r}.json", "", "..", "%61", "ä", "{", "a;b"]
VALUES = ["a", "b", "A", "1", "a.b", "x.json", "prefix", "", "..", "%61", "a%2Fb", "ä", "{x}", "{", "a;b", "\x00", " "]


NESTINGS = ["include", "mount", "fastapi", "host"]
METHODS = [("GET",), ("POST",), ("GET", "POST")]


def template(chance: random.Random, most: int) -> str:
    return "/" + "/".join(chance.choices(SEGMENTS, k=chance.randint(1, most)))


def drawn_tree(chance: random.Random, most: int = 5, depth: int = 3) -> list[Any]:
    """Draw one to `most` routes and groups of routes, which are nested up to `depth` deep."""
    return [_drawn_entry(chance, depth) for _ in range(chance.randint(1, most))]


def _drawn_entry(chance: random.Random, depth: int) -> Any:
    kind = chance.choice(["route", "route", *NESTINGS]) if depth else "route"
    if kind == "route":
        return kind, template(chance, 3), chance.choice(METHODS)
    return kind, _prefix(chance, kind), drawn_tree(chance, 4, depth - 1)


def _prefix(chance: random.Random, kind: str) -> str:
    if kind == "host":
        return chance.choice(["a.test", "{h}.test"])
    while "{z" in (prefix := template(chance, 2).rstrip("/")):
        pass  # no router takes a prefix that spans segments
    return prefix


EDGES = list(itertools.product(["route", *NESTINGS], [False, True], ["", "/api", "/a"], [FastAPI, Starlette]))
"""What contains a route of each segment, whether the middleware is inside, root path, framework; drawn ones follow."""


def case(number: int) -> tuple[random.Random, list[Any], bool, str, Any]:
    """Return the chance, the tree, the place of the middleware, the root path and the framework of a case."""
    chance = random.Random(number)
    if number >= len(EDGES):
        framework = FastAPI if chance.random() < 0.6 else Starlette
        return chance, drawn_tree(chance), chance.random() < 0.5, chance.choice(["", "", "/api", "/a"]), framework
    kind, inside, root, framework = EDGES[number]
    routes: list[Any] = [("route", "/" + segment, chance.choice(METHODS)) for segment in SEGMENTS]
    return chance, routes if kind == "route" else [(kind, _prefix(chance, kind), routes)], inside, root, framework


SERVER = "routes"


@cache
def holder_of(number: int) -> str:
    """Return the capability for the tool of one route."""
    return token((SERVER, str(number)))


def forbidden(template: str) -> bool:
    """Return True if the sidecar forbids what has this template and requires no capability."""
    return crc32(template.encode()) % 4 == 0


def verdict(question: Question, presented: str | None) -> Mapping[str, Any]:
    """Evaluate the rule of a route."""
    if (tool := question.get("tool_name")) is None:
        return deny("forbidden") if forbidden(question["route_pattern"]) else ALLOW
    return ALLOW if presented == holder_of(int(tool)) else deny("not granted")


class Builder:
    """Builds an application; each route gets a number that its endpoint answers with.

    Attributes:
        templates: by number.
        requiring: numbers of routes that require a capability.
        ran: numbers of endpoints that ran since it was cleared.
    """

    def __init__(self) -> None:
        self.templates: list[str] = []
        self.requiring: set[int] = set()
        self.ran: list[int] = []
        self._names = itertools.count()

    def router(self, tree: Any, prefix: str, router: Any) -> Any:
        for kind, spelled, content in tree:
            # Each parameter has its own name: no router accepts a name that occurs twice.
            path = re.sub(r"\{([a-z])(?=[:}])", lambda found: f"{{{found[1]}{next(self._names)}", spelled)
            try:
                self._add(router, kind, path, content, prefix)
            except (ValueError, AssertionError):
                continue  # a parameter that occurs twice, or a prefix that FastAPI does not take
        return router

    def _add(self, router: Any, kind: str, path: str, content: Any, prefix: str) -> None:
        full = prefix + path
        if kind == "route":
            formatted = Route(path, says("")).path_format
            number = len(self.templates)

            async def endpoint(request: Request) -> Response:
                self.ran.append(number)
                return Response()

            if isinstance(router, (FastAPI, APIRouter)):
                requires = [Depends(RequireCapability(SERVER, str(number)))] if number % 2 else []
                router.add_api_route(path, endpoint, methods=list(content), dependencies=requires)
                self.requiring.update([number] if requires else [])
            else:
                router.routes.append(Route(path, endpoint, methods=list(content)))
            self.templates.append(prefix + formatted)
        elif kind == "include" and isinstance(router, (FastAPI, APIRouter)):
            router.include_router(self.router(content, _format(full), APIRouter()), prefix=path)
        elif kind == "host":
            router.routes.append(Host(path, app=self.router(content, prefix, Router())))
        elif path:
            inner = FastAPI(openapi_url=None) if kind == "fastapi" else Starlette()
            router.routes.append(Mount(path, app=self.router(content, _format(full), inner)))


def _format(path: str) -> str:
    return Route(path or "/", says("")).path_format if path else ""


REQUESTS = 40
"""Requests to each application."""


@pytest.mark.slow  # 5,000 requests, and a million at full size
def test_the_route_that_runs_is_the_route_that_was_sent(full_size: bool) -> None:
    for number in range((1_000_000 if full_size else 5_000) // REQUESTS):
        try:
            run(_ask(*case(number)))
        except BaseException as exc:
            exc.add_note(f"case {number}: {case(number)[1:]}")
            raise


async def _ask(chance: random.Random, tree: list[Any], inside: bool, root: str, framework: Any) -> None:
    builder = Builder()
    app = builder.router(tree, "", framework(openapi_url=None) if framework is FastAPI else framework())
    app, judge = (govern_inside if inside else govern)(app, Judge(verdict))
    for _ in range(REQUESTS):
        path = _path(chance, builder.templates)
        method = chance.choice(["GET", "GET", "POST", "HEAD", "DELETE"])
        headers = [("host", chance.choice(["a.test", "b.test", "A.TEST:80", "c"]))]
        if builder.templates and chance.random() < 0.7:
            headers.append(("x-chio-capability", holder_of(chance.randrange(len(builder.templates)))))
        sent = root + path if chance.random() < 0.8 else path
        builder.ran.clear()
        reply = await call(app, method, sent, headers=headers, root_path=root)
        assert reply.status in (200, 307, 401, 403, 404, 405), reply.body
        assert reply.receipt is not None
        assert len(builder.ran) == (reply.status == 200)
        for number in builder.ran:
            evaluated, presented = judge.receipts[reply.receipt], dict(headers).get("x-chio-capability")
            assert evaluated["route_pattern"] == builder.templates[number]
            if number in builder.requiring:
                assert (evaluated["tool_server"], evaluated["tool_name"]) == (SERVER, str(number))
                assert presented == holder_of(number)
            else:
                assert "tool_name" not in evaluated
                assert not forbidden(builder.templates[number])


def _path(chance: random.Random, templates: list[str]) -> str:
    if templates and chance.random() < 0.8:
        parts = chance.choice(templates).split("/")
        path = "/".join(chance.choice(VALUES) if "{" in part or chance.random() < 0.1 else part for part in parts)
    else:
        path = "/" + "/".join(chance.choices(VALUES, k=chance.randrange(1, 4)))
    if chance.random() < 0.2:
        path += chance.choice(["/", "//", "/a", "/.", "/..", "?", "\n"])
    return path
