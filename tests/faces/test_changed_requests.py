"""Inner code that changes a request: it is evaluated again as it will run, on every face that has a second look."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import override_settings

from tests.django.project import CHIO, client
from tests.faces.faces import FACES, DjangoFace, Face
from tests.faces.inner import Change
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


def nothing(environ: dict[str, Any]) -> None: ...


@each_face
@pytest.mark.parametrize("change", [method, query, headers, caller])
def test_a_changed_request_is_evaluated_again_as_it_will_run(face: Face, change: Change) -> None:
    with face.governed(inner=change) as governed:
        assert governed.get("/needs/any?amount=1", HEADERS).status == 200
    first, second = governed.asked
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


def test_a_replaced_body_is_evaluated_again_in_django() -> None:
    replaced = override_settings(MIDDLEWARE=[CHIO, "tests.faces.test_changed_requests.replacing"])
    more = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in HEADERS.items()}
    with DjangoFace().governed() as governed, replaced:
        response = client().generic("DELETE", "/needs/any", b"12345", content_type="text/plain", **more)
    assert response.status_code == 200
    assert [asked["body_length"] for asked in governed.asked] == [5, 3]


def replacing(get_response: Any) -> Any:
    """Gives the view another body."""

    def middleware(request: HttpRequest) -> Any:
        request._stream = io.BytesIO(b"123")
        request.META["CONTENT_LENGTH"] = "3"
        request._body = b"123"
        return get_response(request)

    return middleware
