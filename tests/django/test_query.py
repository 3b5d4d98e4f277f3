"""The query that is evaluated is the query that the view reads, in whatever charset it reads it."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

from chio_core.testing import behaviours
from tests.django.asgi import call as acall
from tests.django.project import CHIO, governed, governed_async
from tests.faces.wsgi import call, environ

CHARSETS = ["utf-8", "utf8", "ascii", "latin-1", "utf-7", "utf-16", "cp037", "unicode_escape", "none"]
QUERIES = [
    "role=admin",
    "role=%61dmin&x=+y",
    "role=+AGE-dmin",
    "role=a+ACY-role+AD0-admin",
    "role=%C3%BC",
    "role=%FC",
    "role=\xc3\xbc",
    "role=\xfc",
    "role=\xfc%C3%BC",
    "role=1&role=2",
    "ro\\x6ce=admin",
    "",
]
READ: list[dict[str, str]] = []


def view(request: HttpRequest) -> HttpResponse:
    READ.append(dict(request.GET.items()))
    return HttpResponse("ok")


async def aview(request: HttpRequest) -> HttpResponse:
    return view(request)


class Sync:
    urlpatterns = (path("v", view),)


class Async:
    urlpatterns = (path("v", aview),)


FIELDS = "&".join(f"f{number}=\xfc" for number in range(1001))


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("query", QUERIES)
def test_under_wsgi_it_is_evaluated_in_the_charset_of_the_content_type(charset: str, query: str) -> None:
    READ.clear()
    with governed(ROOT_URLCONF=Sync) as sidecar:
        answered = call(
            WSGIHandler(), environ("GET", "/v", QUERY_STRING=query, CONTENT_TYPE=f"text/plain; charset={charset}")
        )
    assert answered.status == 200
    assert [asked.document.get("query", {}) for asked in sidecar.asked] == READ != []


@pytest.mark.parametrize("charset", ["utf-8", "utf-7", "latin-1"])
@pytest.mark.parametrize("query", [query for query in QUERIES if "\xfc" not in query])
def test_under_asgi_the_content_type_has_no_effect(charset: str, query: str) -> None:
    READ.clear()
    with governed_async(ROOT_URLCONF=Async) as sidecar:
        reply = asyncio.run(
            acall(
                ASGIHandler(),
                path="/v",
                query=query.encode("latin-1"),
                headers=[(b"host", b"testserver"), (b"content-type", f"text/plain; charset={charset}".encode())],
            )
        )
    assert reply.status == 200
    assert [asked.document.get("query", {}) for asked in sidecar.asked] == READ != []
    assert [dict(parse_qsl(query.encode("latin-1").decode(), keep_blank_values=True))] == READ


def test_a_refused_value_is_refused_in_every_charset() -> None:
    def no_admin(request: Any) -> Any:
        return behaviours.DENY if request.document["query"].get("role") == "admin" else behaviours.ALLOW

    READ.clear()
    with governed(no_admin, ROOT_URLCONF=Sync):
        for query, charset in (
            ("role=admin", "utf-8"),
            ("role=+AGE-dmin", "utf-7"),
            ("role=\\u0061dmin", "unicode_escape"),
        ):
            answered = call(
                WSGIHandler(), environ("GET", "/v", QUERY_STRING=query, CONTENT_TYPE=f"text/plain; charset={charset}")
            )
            assert answered.status == 403
    assert READ == []


def test_middleware_that_changes_the_charset_makes_the_request_evaluated_again() -> None:
    READ.clear()
    options = {"MIDDLEWARE": [CHIO, "tests.django.test_query.latin"], "ROOT_URLCONF": Sync}
    with governed(**options) as sidecar:
        assert call(WSGIHandler(), environ("GET", "/v", QUERY_STRING="role=%C3%BC")).status == 200
    assert [asked.document["query"] for asked in sidecar.asked] == [{"role": "ü"}, {"role": "Ã¼"}]
    assert READ == [{"role": "Ã¼"}]


def latin(get_response: Any) -> Any:
    """Middleware that reads every request in ISO 8859-1."""

    def middleware(request: HttpRequest) -> Any:
        request.encoding = "latin-1"
        return get_response(request)

    return middleware
