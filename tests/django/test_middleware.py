"""The middleware among others, and what is Django's own; what holds on every face is in tests/faces."""

from __future__ import annotations

import hashlib

import pytest
from django.db import connections
from django.test import override_settings

from chio_core.receipts import verify_receipt
from chio_core.testing import KEY, behaviours
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
