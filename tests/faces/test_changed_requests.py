"""Inner code that changes a request: it is evaluated again as it will run, on every face that has a second look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import sha256_hex
from tests.faces.faces import FACES, Face
from tests.faces.inner import BODY, Change
from tests.faces.wire import request
from tests.tokens import with_token

HEADERS = {"authorization": "Bearer first", **with_token(("payments", "transfer"))}

each_face = pytest.mark.parametrize("face", [face for face in FACES if face.asks], ids=str)


def method(environ: dict[str, Any]) -> None:
    environ["REQUEST_METHOD"] = "DELETE"


def query(environ: dict[str, Any]) -> None:
    environ["QUERY_STRING"] = "amount=2"


def headers(environ: dict[str, Any]) -> None:
    environ["CONTENT_TYPE"] = "text/plain"


def caller(environ: dict[str, Any]) -> None:
    environ["HTTP_AUTHORIZATION"] = "Bearer somebody-else"


def no_caller(environ: dict[str, Any]) -> None:
    environ.pop("HTTP_AUTHORIZATION", None)


def body(environ: dict[str, Any]) -> None:
    environ[BODY] = b"another body"


def nothing(environ: dict[str, Any]) -> None: ...


@each_face
@pytest.mark.parametrize("change", [method, query, headers, caller])
def test_a_changed_request_is_evaluated_again_as_it_will_run(face: Face, change: Change) -> None:
    with face.governed(inner=change) as governed:
        found = governed.get("/needs/any?amount=1", HEADERS)
    (seen,), (first, second) = found.seen, governed.asked
    assert (found.status, seen.receipt.request_id, seen.decision.receipt) == (200, second["request_id"], seen.receipt)
    assert found.receipt == seen.receipt.id
    assert (first["method"], first["query"]) == ("GET", {"amount": "1"})
    differs = {name for name in ("method", "query", "headers", "caller") if first.get(name) != second.get(name)}
    assert differs == {change.__name__}


@each_face
@pytest.mark.parametrize("change", [nothing, no_caller])
def test_a_request_that_loses_a_credential_or_nothing_is_evaluated_once(face: Face, change: Change) -> None:
    with face.governed(inner=change) as governed:
        assert governed.get("/needs/any?amount=1", HEADERS).status == 200
    assert len(governed.asked) == 1


@pytest.mark.parametrize("face", [face for face in FACES if face.name.startswith(("django", "flask"))], ids=str)
@pytest.mark.parametrize(("change", "status"), [(nothing, 200), (method, 403)])
def test_a_method_override_needs_what_the_overriding_method_needs(
    face: Face, change: Change, status: int, tmp_path: Path
) -> None:
    with face.opened(sidecar_url=f"embedded:{tmp_path}/chio.sqlite3", inner=change) as send:
        assert send(request("GET", "/anything")).status == status


@each_face
@pytest.mark.parametrize("place", ["inner", "late"])
def test_a_replaced_body_is_evaluated_again_as_the_handler_reads_it(face: Face, place: str) -> None:
    with face.governed(**{place: body}) as governed:
        found = governed.send("POST", "/accounts/7/transfer", HEADERS, b"sent by the client")
    (seen,) = found.seen
    assert (found.status, seen.body) == (200, b"another body")
    assert [asked["body_hash"] for asked in governed.asked] == [
        sha256_hex(b"sent by the client"),
        sha256_hex(seen.body),
    ]
