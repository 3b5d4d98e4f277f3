"""A refusal does not wait for a body that it does not need, and the connection does not stay for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.guards.chain import Chain, Next
from chio_core.refusals.response import AnyResponse, Denial, Response
from tests.support import StubClient, call, http_scope

LARGE = [("content-length", "100000")]


async def never_runs(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the application ran")


async def refuses(request: Any) -> Denial:
    return Denial(status=429, message="too many")


async def refused(headers: Any, *pieces: bytes, ends: bool, version: str = "1.1") -> list[Any]:
    """Refuse an upload unread; return what was sent and received, in this order: heads, contents, lengths."""
    events: list[Any] = []
    left = list(pieces)

    async def receive() -> Any:
        if not left:
            await asyncio.get_running_loop().create_future()
        piece = left.pop(0)
        events.append(len(piece))
        return {"type": "http.request", "body": piece, "more_body": bool(left) or not ends}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            events.append(dict(message["headers"]).get(b"connection"))
        else:
            events.append(bool(message["body"]))

    app = ChioASGIMiddleware(never_runs, client=StubClient(body_timeout=0.05), guards=Chain().add(refuses, priority=-1))
    await app(http_scope("POST", "/x", headers=headers) | {"http_version": version}, receive, send)
    return events


async def test_the_answer_is_complete_before_the_rest_of_a_large_body_is_discarded() -> None:
    assert await refused(LARGE, b"12", b"3", ends=True) == [b"close", True, 2, 1, False]


async def test_a_body_that_is_held_back_is_not_waited_for_longer_than_for_any_body() -> None:
    assert await refused(LARGE, b"12", ends=False) == [b"close", True, 2, False]


async def test_a_body_without_a_length_counts_as_large() -> None:
    assert await refused([("transfer-encoding", "chunked")], b"1", ends=True) == [b"close", True, 1, False]


async def test_a_client_that_waits_for_a_word_before_it_sends_gets_none_after_the_answer() -> None:
    assert await refused([*LARGE, ("expect", "100-continue")], b"1", ends=True) == [b"close", True, False]


@pytest.mark.parametrize(
    ("headers", "version"),
    [([("content-length", "65536")], "1.1"), ([], "1.1"), (LARGE, "2")],
    ids=["small", "none", "http/2"],
)
async def test_a_connection_stays_where_nothing_large_is_left_on_it(headers: Any, version: str) -> None:
    assert await refused(headers, b"1", ends=True, version=version) == [None, True]


async def test_a_guard_that_replaces_the_response_of_an_excluded_path_does_not_wait_for_its_body() -> None:
    async def reads_all(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"own"})

    async def replaces(request: Any, next: Next) -> AnyResponse:
        await next(request)
        return Response("other", 503)

    guards = Chain().add(replaces, priority=-1)
    app = ChioASGIMiddleware(reads_all, client=StubClient(exclude_paths=["/x"]), guards=guards)
    reply = await call(app, "POST", "/x", body=b"x" * 100_000, headers=[("content-length", "100000")])
    assert (reply.status, reply.body, reply.header("connection")) == (503, b"other", None)
