"""The body that is hashed is the body that the view reads: all of it, however it comes."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pytest

from tests.faces.wsgi import OneWay, call, environ
from tests.flask.apps import governed

LARGE = b"0123456789abcdef" * 20_000


@pytest.mark.parametrize("path", ["/echo", "/echo-read"])
@pytest.mark.parametrize("body", [b"", b"hello", b"\x00\xff" * 40_000, LARGE], ids=["none", "small", "binary", "large"])
def test_the_view_reads_what_was_hashed(path: str, body: bytes) -> None:
    with governed(spool_bytes=100_000) as (app, sidecar):
        response = app.test_client().post(path, data=body)
    asked = sidecar.asked[0].document
    assert response.data == body
    assert asked.get("body_hash") == (hashlib.sha256(body).hexdigest() if body else None)
    assert asked["body_length"] == len(body)


def test_forms_files_and_json_are_read_by_flask_as_ever() -> None:
    with governed(spool_bytes=1000) as (app, sidecar):
        client = app.test_client()
        form = client.post("/form", data={"a": "1", "b": "ü"})
        files = client.post("/form", data={"a": "1", "f": (io.BytesIO(b"x" * 5000), "f.txt")})
        payload = client.post("/payload", json={"a": [1]})
    assert form.json == {"fields": {"a": "1", "b": "ü"}, "files": {}}
    assert files.json == {"fields": {"a": "1"}, "files": {"f": "x" * 5000}}
    assert payload.json == {"a": [1]}
    assert all(asked.document["body_hash"] for asked in sidecar.asked)


def test_a_body_above_the_limit_is_413_and_the_sidecar_is_not_asked() -> None:
    with governed(max_body_bytes=10) as (app, sidecar):
        response = app.test_client().post("/echo", data=b"x" * 11)
        assert app.test_client().post("/echo", data=b"x" * 10).status_code == 200
    assert (response.status_code, response.json["error"]) == (413, "chio_body_too_large")
    assert len(sidecar.asked) == 1


def test_flask_s_own_limit_is_still_flask_s() -> None:
    with governed() as (app, sidecar):
        app.config["MAX_CONTENT_LENGTH"] = 100
        assert app.test_client().post("/echo", data=b"x" * 101).status_code == 413
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("path", ["/echo", "/echo-read", "/form"])
def test_a_chunked_body_is_judged_and_read_where_the_server_ends_it(path: str) -> None:
    headers = {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_TYPE": "application/x-www-form-urlencoded"}
    with governed() as (app, sidecar):
        more: dict[str, Any] = {"wsgi.input_terminated": True}
        answered = call(app, environ("POST", path, OneWay(b"a=1&", b"b=", b"2"), headers, **more))
    assert sidecar.asked[0].document["body_hash"] == hashlib.sha256(b"a=1&b=2").hexdigest()
    if path == "/form":
        assert json.loads(answered.body)["fields"] == {"a": "1", "b": "2"}
    else:
        assert answered.body == b"a=1&b=2"


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
        ({"CONTENT_LENGTH": "5", "HTTP_TRANSFER_ENCODING": "chunked"}, 400),
        ({"CONTENT_LENGTH": "-5"}, 400),
        ({"CONTENT_LENGTH": "9"}, 400),
        ({"CONTENT_LENGTH": "900000"}, 400),
        ({"CONTENT_LENGTH": "90000000"}, 413),
    ],
)
def test_a_length_that_is_not_clear_is_refused(more: dict[str, str], status: int) -> None:
    with governed() as (app, sidecar):
        assert call(app, environ("POST", "/echo", OneWay(b"hello"), **more)).status == status
    assert sidecar.asked == []


def test_temporary_files_are_removed_with_the_response() -> None:
    with governed(spool_bytes=1000) as (app, _):
        for path in ("/echo", "/echo-read", "/hello", "/nowhere", "/fails"):
            environment = environ("POST", path, LARGE)
            call(app, environment)
            assert environment["chio.input"].closed


def test_a_request_without_a_body_costs_no_reading() -> None:
    body = OneWay()
    with governed() as (app, _):
        call(app, environ("GET", "/hello", body))
    assert body.largest == 0
