"""The page of metrics as a view: one set of counters for threads and event loops."""

from __future__ import annotations

import asyncio
import logging

import pytest
from asgiref.sync import markcoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_core.testing import ScriptedSidecar
from chio_django import ChioDjangoMiddleware, metrics
from tests.core.exposition import parse, value
from tests.django.project import governed


def hello(request: HttpRequest) -> HttpResponse:
    return metrics(request) if request.path == "/metrics" else HttpResponse("hello")


def test_the_view_shows_what_this_process_has_decided() -> None:
    with governed(CHIO_EXCLUDE_PATHS=["/metrics"]):
        middleware = ChioDjangoMiddleware(hello)
        for _ in range(3):
            assert middleware(RequestFactory().get("/hello")).status_code == 200
        assert middleware(RequestFactory().generic("BREW", "/hello")).status_code == 405
        page = middleware(RequestFactory().get("/metrics"))
        refused = middleware(RequestFactory().post("/metrics"))
    assert page.headers["Content-Type"] == CONTENT_TYPE
    found = parse(page.content.decode())
    assert value(found, "chio_decisions_total", verdict="allow", code="none") == 3
    assert value(found, "chio_decisions_total", verdict="refused", code="chio_bad_request") == 1
    assert refused.status_code == 405


def test_event_loops_are_counted_and_logged_in_the_same_way(caplog: pytest.LogCaptureFixture) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return hello(request)

    markcoroutinefunction(view)
    sidecar = ScriptedSidecar()
    caplog.set_level(logging.INFO, logger="chio.decision")

    async def main() -> HttpResponse:
        async with ChioClient(sidecar.settings(exclude_paths=["/metrics"]), transport=sidecar.transport()) as client:
            middleware = ChioDjangoMiddleware(view, client=client)
            await middleware(RequestFactory().get("/hello"))
            await middleware(RequestFactory().generic("BREW", "/hello"))
            answer: HttpResponse = await middleware(RequestFactory().get("/metrics"))
            return answer

    found = parse(asyncio.run(main()).content.decode())
    assert value(found, "chio_decisions_total", verdict="allow", code="none") == 1
    assert value(found, "chio_decisions_total", verdict="refused", code="chio_bad_request") == 1
    assert [vars(one)["chio_verdict"] for one in caplog.records if one.name == "chio.decision"] == ["allow", "refused"]


def test_without_the_middleware_it_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match=r"ChioDjangoMiddleware in MIDDLEWARE"):
        metrics(RequestFactory().get("/metrics"))
