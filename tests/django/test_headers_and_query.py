"""Headers and query as Django reads them."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import parse_qsl

import pytest
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

from chio_core.testing import behaviours
from chio_core.threads.wsgi_view import was_repeated
from tests.django.asgi import call as acall
from tests.django.project import CHIO, client, governed, governed_async
from tests.faces.wsgi import call, environ
from tests.tokens import with_token

TOKEN = with_token(("payments", "transfer"))["X-Chio-Capability"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("HTTP_AUTHORIZATION", "Bearer a,Bearer b"),
        ("HTTP_AUTHORIZATION", "Bearer a, Basic b"),
        ("HTTP_AUTHORIZATION", 'Digest a="1, Bearer x", b=2,Bearer c'),
        ("HTTP_AUTHORIZATION", "a,Bearer b"),
        ("HTTP_HOST", "testserver,localhost"),
        ("HTTP_X_API_KEY", "a,b"),
        ("HTTP_X_API_KEY", 'a,"b'),
        ("HTTP_X_API_KEY", '"a,b\\"'),
        ("HTTP_X_CHIO_CAPABILITY", f"{TOKEN},{TOKEN}"),
        ("HTTP_X_CHIO_CAPABILITY", f"{TOKEN} , x"),
        ("HTTP_X_CHIO_CAPABILITY", f",{TOKEN}"),
        ("CONTENT_TYPE", "text/plain,application/json"),
    ],
)
def test_a_security_header_that_was_repeated_is_refused_under_wsgi(key: str, value: str) -> None:
    with governed() as sidecar:
        answered = call(WSGIHandler(), environ("GET", "/hello", None, {key: value}))
    assert answered.status == 400
    assert sidecar.asked == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-chio-capability", TOKEN),
        ("x-chio-capability", '{"a":"},{"}'),
        ("x-chio-capability", '{"a":1'),
        ("authorization", 'Digest username="a, b", realm="c",uri="/"'),
        ("authorization", "AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=c;d, Signature=e"),
        ("content-type", 'multipart/form-data; boundary="a,b"'),
    ],
)
def test_a_comma_inside_one_line_is_no_repeated_line(name: str, value: str) -> None:
    assert not was_repeated(name, value)


@pytest.mark.parametrize("name", ["authorization", "x-api-key"])
@pytest.mark.parametrize("piece", ['\\"', "\\", '"', ", ", ", a ", "a", " "])
def test_a_long_line_is_read_in_linear_time(name: str, piece: str) -> None:
    began = time.process_time()
    was_repeated(name, 'Digest ,"' + piece * (60_000 // len(piece)))
    assert time.process_time() - began < 1


@pytest.mark.parametrize("name", [b"authorization", b"x-chio-capability", b"x-api-key", b"content-type", b"host"])
def test_a_security_header_that_is_repeated_is_refused_under_asgi(name: bytes) -> None:
    with governed_async() as sidecar:
        reply = asyncio.run(acall(ASGIHandler(), path="/hello", headers=[(name, b"a"), (name, b"b")]))
    assert reply.status == 400
    assert sidecar.asked == []


def test_other_headers_may_be_repeated() -> None:
    with governed_async() as sidecar:
        headers = [
            (b"host", b"testserver"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"traceparent", b"a"),
            (b"traceparent", b"b"),
        ]
        reply = asyncio.run(acall(ASGIHandler(), path="/hello", headers=headers))
    with governed() as other:
        call(WSGIHandler(), environ("GET", "/hello", None, {"HTTP_TRACEPARENT": "a,b"}))
    assert reply.status == 200
    assert "traceparent" not in sidecar.asked[0].headers
    assert "traceparent" not in other.asked[0].headers


def test_a_client_certificate_that_the_web_server_verified_names_the_caller(certificate: str) -> None:
    ssl: dict[str, Any] = {"SSL_CLIENT_S_DN": "CN=agent", "SSL_CLIENT_CERT": certificate}
    with governed() as sidecar:
        call(WSGIHandler(), environ("GET", "/hello", None, ssl, SSL_CLIENT_VERIFY="SUCCESS"))
        call(WSGIHandler(), environ("GET", "/hello", None, ssl, SSL_CLIENT_VERIFY="NONE"))
        call(WSGIHandler(), environ("GET", "/hello", None, {f"HTTP_{key}": value for key, value in ssl.items()}))
    callers = [asked.document["caller"] for asked in sidecar.asked]
    assert [caller["subject"] for caller in callers] == ["CN=agent", "anonymous", "anonymous"]
    assert callers[0]["verified"] is True


def test_the_receipt_is_exposed_to_scripts_beside_what_the_project_exposes() -> None:
    with governed(MIDDLEWARE=[CHIO, "tests.django.middleware.exposing"]):
        asked_by_a_script = client().get("/hello", headers={"origin": "https://page.test"})
        asked_by_nobody_of_that_kind = client().get("/hello")
    assert asked_by_a_script.headers["Access-Control-Expose-Headers"] == "X-Total, X-Chio-Receipt"
    assert asked_by_nobody_of_that_kind.headers["Access-Control-Expose-Headers"] == "X-Total"


# The query that is evaluated is the query that the view reads, in whatever charset it reads it


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
    options = {"MIDDLEWARE": [CHIO, "tests.django.test_headers_and_query.latin"], "ROOT_URLCONF": Sync}
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
