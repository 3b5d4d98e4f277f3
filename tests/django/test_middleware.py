"""The middleware: what it lets through, what it refuses, and what a view reads of it; under WSGI and ASGI alike."""

from __future__ import annotations

import gc
import weakref

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_started
from django.db import connections
from django.test import override_settings

from chio_core.models.caller import CallerIdentity
from chio_core.models.receipt import HttpReceipt
from chio_core.receipts import verify_receipt
from chio_core.testing import KEY, behaviours
from tests.django.project import CHIO, SHARING, aget, arequest, client, governed, governed_async
from tests.faces.wsgi import call, environ


def test_an_allowed_request_reaches_its_view_with_the_verified_receipt() -> None:
    with governed() as sidecar:
        response = client().get("/hello")
    seen = response.json()
    assert response.status_code == 200
    assert response.headers["X-Chio-Receipt"] == seen["receipt"]["id"] == seen["typed"]
    assert verify_receipt(seen["receipt"], trusted_keys=[sidecar.public_key]).id == seen["typed"]
    assert seen["evaluation"]["verdict"] == {"verdict": "allow"}
    assert seen["evaluation"]["receipt"] == seen["receipt"]
    assert (seen["verdict"], seen["passthrough"]) == ("allow", None)


def test_the_same_under_asgi() -> None:
    with governed_async():
        response = aget("/ahello")
    seen = response.json()
    assert response.headers["X-Chio-Receipt"] == seen["receipt"]["id"] == seen["typed"]


def test_a_denied_request_is_answered_in_the_nested_envelope_with_its_receipt() -> None:
    with governed(behaviours.DENY) as sidecar:
        response = client().post("/echo", b"x", content_type="text/plain")
    error = response.json()["error"]
    assert response.status_code == 403
    assert error["code"] == "CHIO_GUARD_DENIED"
    assert error["message"] == "side-effect route requires a capability token"
    assert error["guard"] == "CapabilityGuard"
    assert response.headers["X-Chio-Receipt"] == error["receipt_id"]
    assert response.headers["Cache-Control"] == "no-store"
    assert len(sidecar.asked) == 1


def test_a_denied_request_under_asgi_looks_the_same() -> None:
    with governed(behaviours.DENY):
        sync = client().get("/hello")
    with governed_async(behaviours.DENY):
        asynchronous = aget("/hello")
    of_this_request = {"receipt_id", "instance", "explain"}
    wanted = {name: value for name, value in sync.json()["error"].items() if name not in of_this_request}
    found = {name: value for name, value in asynchronous.json()["error"].items() if name not in of_this_request}
    assert found == wanted
    assert asynchronous.status_code == sync.status_code


def test_a_sidecar_that_is_away_is_503_and_no_500() -> None:
    with governed(behaviours.REFUSE):
        response = client().get("/hello")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "CHIO_SIDECAR_UNAVAILABLE"
    assert "X-Chio-Receipt" not in response.headers


def test_fail_open_marks_the_passage_and_gives_no_receipt() -> None:
    with governed(behaviours.REFUSE, CHIO_FAIL_OPEN=True):
        response = client().get("/hello")
    assert response.status_code == 200
    assert response.json()["receipt"] is None
    assert response.json()["passthrough"] == "chio_sidecar_unreachable"
    assert "X-Chio-Receipt" not in response.headers


def test_excluded_paths_and_methods_are_not_asked_about() -> None:
    with governed(behaviours.REFUSE, CHIO_EXCLUDE_PATHS=["/healthz"], CHIO_EXCLUDE_PREFIXES=["/static"]) as sidecar:
        assert client().get("/healthz").json()["governed"] is False
        assert client().get("/static/site.css").status_code == 200
        assert client().options("/hello").status_code != 503
        assert client().get("/healthz/").status_code == 503
    assert sidecar.asked == []


def test_exclude_methods_are_compared_as_they_are_written_on_the_wire() -> None:
    with governed(CHIO_EXCLUDE_METHODS=["get"]) as sidecar:
        assert client().get("/healthz").json()["governed"] is False
        assert client().generic("get", "/healthz").status_code == 405
    assert sidecar.asked == []


@pytest.mark.parametrize("path", ["/nowhere", "/fails", "/slashed"])
def test_errors_and_redirects_have_the_receipt_header_too(path: str) -> None:
    middleware = [CHIO, "django.middleware.common.CommonMiddleware"]
    with governed(MIDDLEWARE=middleware) as sidecar:
        response = client().get(path)
    assert response.status_code in (301, 404, 500)
    assert response.headers["X-Chio-Receipt"]
    assert sidecar.asked[0].document["route_pattern"] == ("/fails" if path == "/fails" else path)


def test_what_stands_further_in_and_raises_is_answered_with_the_receipt_header() -> None:
    with governed(MIDDLEWARE=[CHIO, "tests.django.middleware.refuses"]):
        response = client().get("/hello")
    assert response.status_code == 403
    assert response.headers["X-Chio-Receipt"]


def test_an_application_cannot_claim_a_receipt() -> None:
    with governed():
        governed_response = client().get("/claims")
    with governed(behaviours.REFUSE, CHIO_FAIL_OPEN=True):
        passed = client().get("/claims")
    with governed(behaviours.REFUSE, CHIO_EXCLUDE_PATHS=["/claims"]):
        excluded = client().get("/claims")
    assert governed_response.headers["X-Chio-Receipt"] != "forged"
    assert governed_response.headers["X-Other"] == "kept"
    assert "X-Chio-Receipt" not in passed.headers
    assert "X-Chio-Receipt" not in excluded.headers


def test_the_receipt_header_can_have_another_name() -> None:
    with governed(CHIO_RECEIPT_HEADER="X-Receipt"):
        response = client().get("/hello")
    assert response.headers["X-Receipt"] == response.json()["typed"]


def test_streams_and_files_stay_what_they_are() -> None:
    with governed():
        stream, file = client().get("/stream"), client().get("/file")
        assert stream.streaming
        assert list(stream) == [b"0;", b"1;", b"2;"]
        assert file.streaming
        assert b"".join(file).startswith(b'"""Views')
        file.close()
    assert stream.headers["X-Chio-Receipt"]
    assert file.headers["X-Chio-Receipt"]


def test_asynchronous_streams_stay_what_they_are() -> None:
    with governed_async():
        response = aget("/astream")
    assert response.read == [b"0;", b"1;", b"2;"]
    assert response.headers["X-Chio-Receipt"]


def test_the_capability_token_travels_in_its_header_and_nowhere_else() -> None:
    with governed() as sidecar:
        client().post(
            "/payload?chio_capability=secret&a=1", {}, "application/json", headers={"X-Chio-Capability": "{}"}
        )
    asked = sidecar.asked[0]
    assert asked.capability_text == "{}"
    assert asked.document["query"] == {"a": "1"}
    assert b"secret" not in asked.body


def test_a_method_that_the_protocol_does_not_know_is_405() -> None:
    with governed() as sidecar:
        response = client().generic("TRACE", "/hello")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"]
    assert sidecar.asked == []


def test_middleware_that_only_knows_threads_may_stand_on_either_side() -> None:
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


def test_hooks_are_told_of_every_decision() -> None:
    heard: list[object] = []
    with governed(behaviours.DENY, CHIO_ON_DECISION=heard.append, CHIO_ON_RECEIPT=heard.append):
        client().get("/hello")
    assert heard[0].verdict == "deny"  # type: ignore[attr-defined]
    assert isinstance(heard[1], HttpReceipt)


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


def test_an_extractor_says_who_is_calling() -> None:
    with governed(CHIO_EXTRACTOR=lambda view: CallerIdentity.mtls("CN=me", "00")) as sidecar:
        client().get("/hello")
    assert sidecar.asked[0].document["caller"]["subject"] == "CN=me"


def test_settings_that_a_test_overrides_count_at_once() -> None:
    with governed(behaviours.REFUSE) as sidecar:
        django = client()
        assert django.get("/hello").status_code == 503
        with override_settings(CHIO_FAIL_OPEN=True):
            assert django.get("/hello").status_code == 200
        assert django.get("/hello").status_code == 503
    assert sidecar.public_key == KEY.public_hex


def test_a_request_without_anything_else_can_be_made_under_asgi() -> None:
    with governed_async() as sidecar:
        response = arequest("post", "/echo", b"hello", content_type="text/plain")
    assert response.content == b"hello"
    assert sidecar.asked[0].document["body_length"] == 5


def test_nothing_of_a_request_is_left_when_its_response_is_gone() -> None:
    with governed():
        handler, kept = WSGIHandler(), []
        request_started.connect(listener := (lambda environ, **_: kept.append(weakref.ref(environ["wsgi.errors"]))))
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                call(handler, environ("POST", "/echo", b"hello"))
        finally:
            gc.enable()
            request_started.disconnect(listener)
    assert [reference() for reference in kept] == [None] * 3
