"""The body that is hashed is the body that the view reads: all of it, however it comes."""

from __future__ import annotations

import gc
import hashlib
import json
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

from chio_core.testing import ScriptedSidecar
from tests.django.project import CHIO, SHARING, arequest, client, governed, governed_async
from tests.faces.wsgi import OneWay, call, environ

LARGE = b"0123456789abcdef" * 20_000
"""320,000 bytes, more than one piece."""


def asked_hash(sidecar: ScriptedSidecar) -> Any:
    return sidecar.asked[0].document.get("body_hash")


@pytest.mark.parametrize("path", ["/echo", "/echo-read"])
@pytest.mark.parametrize("body", [b"", b"hello", b"\x00\xff" * 40_000, LARGE], ids=["none", "small", "binary", "large"])
def test_the_view_reads_what_was_hashed(path: str, body: bytes) -> None:
    with governed(CHIO_SPOOL_BYTES=100_000) as sidecar:
        response = client().post(path, body, content_type="application/octet-stream")
    with governed_async(spool_bytes=100_000) as other:
        asynchronous = arequest("post", path, body, content_type="application/octet-stream")
    assert response.content == asynchronous.content == body
    assert asked_hash(sidecar) == asked_hash(other) == (hashlib.sha256(body).hexdigest() if body else None)
    assert sidecar.asked[0].document["body_length"] == other.asked[0].document["body_length"] == len(body)


def test_forms_and_files_are_read_by_django_as_ever() -> None:
    with governed(CHIO_SPOOL_BYTES=1000) as sidecar:
        plain = client().post("/form", {"a": "1", "b": "ü"})
        with_file = client().post("/form", {"a": "1", "f": SimpleUploadedFile("f.txt", b"x" * 5000)})
        urlencoded = client().post("/form", "a=1&b=2", content_type="application/x-www-form-urlencoded")
    assert plain.json()["fields"] == {"a": "1", "b": "ü"}
    assert with_file.json()["files"] == {"f": "x" * 5000}
    assert urlencoded.json() == {"fields": {"a": "1", "b": "2"}, "files": {}}
    assert all(asked.document["body_hash"] for asked in sidecar.asked)


def test_the_same_under_asgi() -> None:
    with governed_async():
        response = arequest("post", "/form", {"a": "1", "f": SimpleUploadedFile("f.txt", b"x" * 5000)})
    assert response.json() == {"fields": {"a": "1"}, "files": {"f": "x" * 5000}}


def test_a_body_above_the_limit_is_413_and_the_sidecar_is_not_asked() -> None:
    with governed(CHIO_MAX_BODY_BYTES=10) as sidecar:
        response = client().post("/echo", b"x" * 11, content_type="text/plain")
        exact = client().post("/echo", b"x" * 10, content_type="text/plain")
    with governed_async(max_body_bytes=10) as other:
        asynchronous = arequest("post", "/echo", b"x" * 11, content_type="text/plain")
    assert response.json()["error"]["code"] == "CHIO_BODY_TOO_LARGE"
    assert (response.status_code, exact.status_code, asynchronous.status_code) == (413, 200, 413)
    assert len(sidecar.asked) == 1
    assert other.asked == []


def test_an_announced_length_above_the_limit_is_refused_unread() -> None:
    body = OneWay(b"x" * 100)
    with governed(CHIO_MAX_BODY_BYTES=10):
        answered = call(WSGIHandler(), environ("POST", "/echo", body, CONTENT_LENGTH="100"))
    assert answered.status == 413
    assert body.given == 0


def test_django_s_own_limit_is_still_django_s() -> None:
    with governed(DATA_UPLOAD_MAX_MEMORY_SIZE=100) as sidecar:
        small = client().post("/echo", b"x" * 100, content_type="text/plain")
        large = client().post("/echo", b"x" * 101, content_type="text/plain")
        streamed = client().post("/echo-read", b"x" * 101, content_type="text/plain")
    assert (small.status_code, large.status_code, streamed.status_code) == (200, 400, 200)
    assert len(sidecar.asked) == 3
    assert large.headers["X-Chio-Receipt"]


@pytest.mark.parametrize("path", ["/echo", "/echo-read", "/form"])
def test_a_chunked_body_is_judged_and_read_where_the_server_ends_it(path: str) -> None:
    body = OneWay(b"a=1&", b"b=", b"2")
    headers = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    with governed() as sidecar:
        answered = call(WSGIHandler(), environ("POST", path, body, headers, **{"wsgi.input_terminated": True}))
    assert asked_hash(sidecar) == hashlib.sha256(b"a=1&b=2").hexdigest()
    found = json.loads(answered.body)["fields"] if path == "/form" else answered.body
    assert found == ({"a": "1", "b": "2"} if path == "/form" else b"a=1&b=2")


def test_a_chunked_body_whose_end_nobody_knows_is_411() -> None:
    with governed() as sidecar:
        answered = call(WSGIHandler(), environ("POST", "/echo", OneWay(b"x"), HTTP_TRANSFER_ENCODING="chunked"))
    assert answered.status == 411
    assert sidecar.asked == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"}, "two framings"),
        ({"CONTENT_LENGTH": "-5"}, "negative"),
        ({"CONTENT_LENGTH": "five"}, "no number"),
        ({"CONTENT_LENGTH": "5,5"}, "twice"),
        ({"CONTENT_LENGTH": "9"}, "cut off"),
        ({"CONTENT_LENGTH": "90000"}, "cut off, large"),
    ],
)
def test_a_length_that_is_not_clear_is_refused(more: dict[str, str], why: str) -> None:
    with governed() as sidecar:
        answered = call(WSGIHandler(), environ("POST", "/echo", OneWay(b"hello"), **more))
    assert answered.status == 400, why
    assert sidecar.asked == []


@pytest.mark.parametrize("length", ["9", "900000"])
def test_a_client_that_breaks_off_is_refused(length: str) -> None:
    with governed() as sidecar:
        answered = call(WSGIHandler(), environ("POST", "/echo", OneWay(b"hello", breaks=True), CONTENT_LENGTH=length))
    assert answered.status == 400
    assert sidecar.asked == []


def test_middleware_that_has_read_the_body_may_stand_before() -> None:
    with governed(MIDDLEWARE=["tests.django.middleware.reads_body", CHIO]) as sidecar:
        response = client().post("/echo", b"hello", content_type="text/plain")
    assert response.content == b"hello"
    assert asked_hash(sidecar) == hashlib.sha256(b"hello").hexdigest()


def test_middleware_that_has_used_up_the_body_may_not(caplog: pytest.LogCaptureFixture) -> None:
    with governed(MIDDLEWARE=["tests.django.middleware.consumes_body", CHIO]) as sidecar:
        response = client().post("/echo", b"hello", content_type="text/plain")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "CHIO_CONFIGURATION"
    assert "before it in MIDDLEWARE" in caplog.text
    assert sidecar.asked == []


def test_under_asgi_a_used_up_body_is_still_there_to_be_judged() -> None:
    with governed_async(MIDDLEWARE=["tests.django.middleware.reads_body", SHARING]) as sidecar:
        response = arequest("post", "/echo", b"hello", content_type="text/plain")
    assert response.content == b"hello"
    assert asked_hash(sidecar) == hashlib.sha256(b"hello").hexdigest()


def test_temporary_files_are_removed_with_the_response() -> None:
    with governed(CHIO_SPOOL_BYTES=1000):
        handler = WSGIHandler()
        for path in ("/echo", "/echo-read", "/hello", "/nowhere"):
            environment = environ("POST", path, LARGE)
            call(handler, environment)
            assert environment["chio.input"].closed
    gc.collect()  # an unclosed file would be reported here


def test_a_request_without_a_body_costs_no_reading() -> None:
    body = OneWay()
    with governed():
        call(WSGIHandler(), environ("GET", "/hello", body))
    assert body.largest == 0


def test_repeated_settings_do_not_change_the_hash() -> None:
    hashes = set()
    for spool in (0, 1, 10, 10**6):
        with governed() as sidecar, override_settings(CHIO_SPOOL_BYTES=spool):
            client().post("/echo", LARGE, content_type="text/plain")
        hashes.add(asked_hash(sidecar))
    assert hashes == {hashlib.sha256(LARGE).hexdigest()}
