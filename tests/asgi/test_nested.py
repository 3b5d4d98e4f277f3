"""Two of the middleware around one request: both ask, and one sentence says what that means."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.applications import Starlette
from starlette.routing import Mount

from chio_asgi import ChioASGIMiddleware
from tests.support import Judge, StubClient, call, run

EFFECT = "each request is evaluated twice, spends each budget twice and cannot use an approval"


def governed(title: str, **options: Any) -> FastAPI:
    app = FastAPI(title=title)
    app.add_api_route("/pay/{account}", lambda account: account)
    app.add_middleware(ChioASGIMiddleware, client=StubClient(Judge(), **options))
    return app


def warned(caplog: pytest.LogCaptureFixture, app: Any, *paths: str) -> list[str]:
    """Send these requests and return what was said about two of them."""
    with caplog.at_level(logging.WARNING, "chio"):
        for path in paths:
            assert run(call(app, "GET", path)).status == 200
    return [message for message in caplog.messages if EFFECT in message]


def test_the_inner_one_names_both_and_the_remedy_once(caplog: pytest.LogCaptureFixture) -> None:
    outer = governed("Shop")
    outer.mount("/bank", governed("Bank"))
    assert warned(caplog, outer, "/bank/pay/1", "/bank/pay/2") == [
        f"chio: application 'Bank' at '/bank' is inside application 'Shop', and both have Chio: {EFFECT};"
        " leave the inner one out, or exclude its paths from the outer one (exclude_prefixes)"
    ]


def test_what_a_client_has_written_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    outer = governed("Shop")
    outer.mount("/banks/{bank}", governed("Bank"))
    (text,) = warned(caplog, outer, "/banks/odd-name/pay/1")
    assert "odd-name" not in text


def test_two_in_one_application_and_one_around_it_are_reported_too(caplog: pytest.LogCaptureFixture) -> None:
    twice = governed("Shop")
    twice.add_middleware(ChioASGIMiddleware, client=StubClient(Judge()))
    assert warned(caplog, twice, "/pay/1") == [f"chio: application 'Shop' has Chio twice: {EFFECT}; leave one out"]
    caplog.clear()
    around = ChioASGIMiddleware(Starlette(routes=[Mount("/bank", governed("Bank"))]), client=StubClient(Judge()))
    (text,) = warned(caplog, around, "/bank/pay/1")
    assert "application 'Bank' at '/bank' is inside the application" in text


def test_paths_that_the_outer_one_excludes_are_evaluated_once(caplog: pytest.LogCaptureFixture) -> None:
    outer = governed("Shop", exclude_prefixes=["/bank"])
    outer.mount("/bank", governed("Bank"))
    assert warned(caplog, outer, "/bank/pay/1", "/pay/1") == []


def test_requests_that_a_handler_makes_are_evaluated_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    outer, inner, sent = governed("Shop"), governed("Bank"), list[int]()

    async def batch(request: Request) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            sent.extend([message["status"]] if "status" in message else [])

        for app in (inner, outer):
            await app({**request.scope, "path": "/pay/1", "raw_path": b"/pay/1"}, receive, send)

    outer.add_api_route("/batch", batch)
    assert warned(caplog, outer, "/batch") == []
    assert sent == [200, 200]
