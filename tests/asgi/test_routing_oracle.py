"""Generated applications and requests: the endpoint that runs is the one whose rule was evaluated (A6, A7).

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

import hypothesis
import pytest
from fastapi import APIRouter, Depends, FastAPI
from hypothesis import strategies as st
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


def templates(depth: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=depth).map(lambda parts: "/" + "/".join(parts))


leaves = st.tuples(st.just("route"), templates(3), st.sampled_from([("GET",), ("POST",), ("GET", "POST")]))


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=4)
    prefixes = templates(2).map(lambda prefix: prefix.rstrip("/")).filter(lambda prefix: "{z" not in prefix)
    return st.one_of(
        st.tuples(st.just("include"), prefixes, several),
        st.tuples(st.just("mount"), prefixes, several),
        st.tuples(st.just("fastapi"), prefixes, several),
        st.tuples(st.just("host"), st.sampled_from(["a.test", "{h}.test"]), several),
    )


trees = st.lists(st.recursive(leaves, nested, max_leaves=8), min_size=1, max_size=5)


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
"""Requests to each generated application."""


@pytest.mark.slow  # 20,000 requests, and a million at full size
def test_the_route_that_runs_is_the_route_that_was_sent(full_size: bool) -> None:
    @hypothesis.settings(
        max_examples=(1_000_000 if full_size else 20_000) // REQUESTS,
        deadline=None,
        derandomize=not full_size,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(trees, st.booleans(), st.sampled_from(["", "", "/api", "/a"]), st.integers(0, 2**32))
    def holds(tree: Any, inside: bool, root: str, seed: int) -> None:
        run(_ask(tree, govern_inside if inside else govern, root, random.Random(seed)))

    holds()


async def _ask(tree: Any, governed: Any, root: str, chance: random.Random) -> None:
    builder = Builder()
    app = builder.router(tree, "", FastAPI(openapi_url=None) if chance.random() < 0.6 else Starlette())
    app, judge = governed(app, Judge(verdict))
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
