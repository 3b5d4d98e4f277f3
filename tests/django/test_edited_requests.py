"""Middleware that edits what Django has made of a request: it is evaluated again, as the view reads it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import path
from django.utils.decorators import sync_and_async_middleware

from chio_core.canonical import sha256_hex
from tests.django.middleware import _before
from tests.django.project import CHIO, SHARING, arequest, client, governed, governed_async

EDITING = f"{__name__}.editing"
URLENCODED = "application/x-www-form-urlencoded"


@sync_and_async_middleware
def editing(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Edits a request with the setting TEST_EDIT."""
    return _before(get_response, lambda request: settings.TEST_EDIT(request))


def view(request: HttpRequest) -> HttpResponse:
    read = request.POST.get("amount"), request.COOKIES.get("session"), request.body if request.method == "GET" else b""
    return HttpResponse(repr(read))


urlpatterns = [path("", view)]


def reads(request: HttpRequest) -> None:
    assert request.POST is not None
    assert request.COOKIES is not None


def form(request: HttpRequest) -> None:
    edited = request.POST.copy()
    edited["amount"] = "1000000"
    request.POST = edited  # type: ignore[misc]


def form_in_place(request: HttpRequest) -> None:
    request.POST._mutable = True
    request.POST["amount"] = "1000000"
    request.POST._mutable = False


def cookie(request: HttpRequest) -> None:
    request.COOKIES["session"] = "another"


def no_cookie(request: HttpRequest) -> None:
    request.COOKIES.clear()


def stream(request: HttpRequest) -> None:
    request._stream = BytesIO(b"another body")


def evaluated(edit: Any, send: Callable[[], Any]) -> list[Any]:
    """Return what was evaluated, under threads and under ASGI alike."""
    project = {"ROOT_URLCONF": __name__, "TEST_EDIT": edit}
    with governed(MIDDLEWARE=[CHIO, EDITING], **project) as sidecar:
        assert send().status_code == 200
    return [asked.document for asked in sidecar.asked]


@pytest.mark.parametrize("edit", [form, form_in_place])
@pytest.mark.parametrize("content_type", [URLENCODED, "multipart/form-data; boundary=b"])
def test_an_edited_form_is_evaluated_again(edit: Any, content_type: str) -> None:
    data = {"amount": "1", "note": "ä", "file": SimpleUploadedFile("name", b"content")}
    if content_type == URLENCODED:
        arguments: dict[str, Any] = {"data": "amount=1&note=%C3%A4", "content_type": URLENCODED}
    else:
        arguments = {"data": data}
    first, second = evaluated(edit, lambda: client().post("/", **arguments))
    assert second["body_hash"] == sha256_hex(b"amount=1000000&note=%C3%A4")
    assert second["body_hash"] != first["body_hash"]


def test_an_edited_form_of_a_request_without_a_body_is_evaluated_again() -> None:
    def adds(request: HttpRequest) -> None:
        request.POST = QueryDict("amount=2")  # type: ignore[misc]

    first, second = evaluated(adds, lambda: client().get("/"))
    assert (first.get("body_hash"), second["body_hash"]) == (None, sha256_hex(b"amount=2"))


@pytest.mark.parametrize("edit", [reads, no_cookie])
def test_a_request_that_is_only_read_or_loses_a_cookie_is_evaluated_once(edit: Any) -> None:
    data = {"amount": "1", "file": SimpleUploadedFile("name", b"content")}
    headers = {"Cookie": 'session=mine; other="quoted; text"; ä=ö'}
    assert len(evaluated(edit, lambda: client().post("/", data, headers=headers))) == 1


def test_an_edited_cookie_is_evaluated_again() -> None:
    first, second = evaluated(cookie, lambda: client().get("/", headers={"Cookie": "session=mine"}))
    assert first["caller"] != second["caller"]
    assert second["caller"]["auth_method"]["method"] == "cookie"
    (direct,) = evaluated(reads, lambda: client().get("/", headers={"Cookie": "session=another"}))
    assert direct["caller"] == second["caller"]


def test_a_stream_in_a_request_without_a_body_is_evaluated_again() -> None:
    first, second = evaluated(stream, lambda: client().get("/"))
    assert (first.get("body_hash"), second["body_hash"]) == (None, sha256_hex(b"another body"))


@pytest.mark.parametrize(("edit", "times"), [(form, 2), (cookie, 2), (stream, 2), (reads, 1)])
def test_the_same_under_asgi(edit: Any, times: int) -> None:
    project = {"ROOT_URLCONF": __name__, "TEST_EDIT": edit, "MIDDLEWARE": [SHARING, EDITING]}
    with governed_async(**project) as sidecar:
        response = arequest("post", "/", {"amount": "1"}, headers={"Cookie": "session=mine"})
    assert (response.status_code, len(sidecar.asked)) == (200, times)
