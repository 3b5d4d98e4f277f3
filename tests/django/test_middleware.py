"""The middleware among others, and what is Django's own; what holds on every face is in tests/faces."""

from __future__ import annotations

import asyncio
import hashlib
import logging

import pytest
from asgiref.sync import markcoroutinefunction
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError
from chio_core.receipts import verify_receipt
from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_core.testing import KEY, ScriptedSidecar, behaviours
from chio_django import ChioDjangoMiddleware, metrics
from tests.core.exposition import parse, value
from tests.django.project import CHIO, SHARING, aget, arequest, client, governed, governed_async
from tests.faces.contract import taken


def test_a_view_reads_the_receipt_as_a_document_and_as_an_object() -> None:
    with governed() as sidecar:
        response = client().get("/hello")
    seen = response.json()
    assert verify_receipt(seen["receipt"], trusted_keys=[sidecar.public_key]).id == seen["typed"]
    assert seen["evaluation"]["verdict"] == {"verdict": "allow"}
    assert seen["evaluation"]["receipt"] == seen["receipt"]


def test_an_inner_middleware_that_raises_is_answered_with_the_receipt_header() -> None:
    with governed(MIDDLEWARE=[CHIO, "tests.django.middleware.refuses"]):
        response = client().get("/hello")
    assert response.status_code == 403
    assert response.headers["X-Chio-Receipt"]


def test_streams_and_files_stay_what_they_are() -> None:
    with governed():
        stream, file = client().get("/stream"), client().get("/file")
        assert stream.streaming
        assert file.streaming
        assert b"".join(file).startswith(b'"""Views')
        file.close()
    with governed_async():
        asynchronous = aget("/astream")
    assert asynchronous.read == [b"0;", b"1;", b"2;"]
    assert all(response.headers["X-Chio-Receipt"] for response in (stream, file, asynchronous))


def test_django_s_own_limit_of_a_body_is_still_django_s() -> None:
    with governed(DATA_UPLOAD_MAX_MEMORY_SIZE=100) as sidecar:
        found = [
            client().post(path, b"x" * size, content_type="text/plain")
            for path, size in (("/anything", 100), ("/anything", 101), ("/piecewise", 101))
        ]
    assert [response.status_code for response in found] == [200, 400, 200]
    assert len(sidecar.asked) == 3
    assert found[1].headers["X-Chio-Receipt"]


def test_middleware_that_has_read_the_body_may_be_outside() -> None:
    reads = "tests.django.middleware.reads_body"
    taken()
    with governed(MIDDLEWARE=[reads, CHIO]) as sync:
        client().post("/anything", b"hello", content_type="text/plain")
    with governed_async(MIDDLEWARE=[reads, SHARING]) as asynchronous:
        arequest("post", "/anything", b"hello", content_type="text/plain")
    assert [seen.body for seen in taken()] == [b"hello", b"hello"]
    for sidecar in (sync, asynchronous):
        assert sidecar.asked[0].document["body_hash"] == hashlib.sha256(b"hello").hexdigest()


def test_middleware_that_has_used_up_the_body_may_not(caplog: pytest.LogCaptureFixture) -> None:
    with governed(MIDDLEWARE=["tests.django.middleware.consumes_body", CHIO]) as sidecar:
        response = client().post("/anything", b"hello", content_type="text/plain")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "CHIO_CONFIGURATION"
    assert "before it in MIDDLEWARE" in caplog.text
    assert sidecar.asked == []


def test_middleware_that_only_knows_threads_may_be_on_either_side() -> None:
    old = "tests.django.middleware.sync_only"
    with governed(MIDDLEWARE=[old, CHIO]), governed_async(MIDDLEWARE=[old, SHARING]):
        outside = aget("/hello")
    with governed(MIDDLEWARE=[CHIO, old]):
        inside = aget("/hello")
    for response in (outside, inside):
        assert response.status_code == 200
        assert response.headers["X-Chio-Receipt"] == response.json()["typed"]
        assert response.headers["X-Sync-Only"] == "1"


def test_views_may_run_in_a_transaction() -> None:
    options = connections["default"].settings_dict
    options["ATOMIC_REQUESTS"] = True
    try:
        with governed():
            response = client().get("/atomic")
            guarded = client().get("/transfer")
    finally:
        options["ATOMIC_REQUESTS"] = False
        connections.close_all()
    assert response.json() == {"atomic": True}
    assert guarded.status_code == 401


def test_asynchronous_hooks_are_awaited_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[object] = []

    async def hear(value: object) -> None:
        heard.append(value)
        raise RuntimeError("nobody listens")

    with governed_async(CHIO_ON_DECISION=hear, CHIO_ON_RECEIPT=hear):
        assert aget("/hello").status_code == 200
    assert len(heard) == 2
    with governed(CHIO_ON_DECISION=hear):
        assert client().get("/hello").status_code == 200
    assert "async def" in caplog.text


def test_settings_that_a_test_overrides_count_at_once() -> None:
    with governed(behaviours.REFUSE) as sidecar:
        django = client()
        assert django.get("/hello").status_code == 503
        with override_settings(CHIO_FAIL_OPEN=True):
            assert django.get("/hello").status_code == 200
        assert django.get("/hello").status_code == 503
    assert sidecar.public_key == KEY.public_hex


# The page of metrics as a view: one set of counters for threads and event loops


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
