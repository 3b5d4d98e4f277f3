"""Inner code that changes a request: it is evaluated again as it will run, on every face that has a second look.

Each driver builds an application with one layer inside Chio that changes the request, sends a request, and returns the
status. The sidecar records what it was asked to evaluate.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.test import override_settings
from django.utils.decorators import sync_and_async_middleware
from fastapi import Depends, FastAPI
from flask import Flask

from chio_core.testing import ScriptedSidecar
from chio_fastapi import RequireCapability, add_chio
from chio_flask import Chio, require_capability
from tests.django.project import CHIO, SHARING, arequest, client
from tests.support import call, run
from tests.tokens import with_token

CAPABILITY = with_token(("payments", "transfer"))

# A change is a function of a WSGI environment; the drivers apply it in their own way.
Change = Callable[[dict[str, Any]], None]


def method(environ: dict[str, Any]) -> None:
    environ["REQUEST_METHOD"] = "DELETE"


def query(environ: dict[str, Any]) -> None:
    environ["QUERY_STRING"] = "amount=2"


def content_type(environ: dict[str, Any]) -> None:
    environ["CONTENT_TYPE"] = "text/plain"


def caller(environ: dict[str, Any]) -> None:
    environ["HTTP_AUTHORIZATION"] = "Bearer somebody-else"


def no_caller(environ: dict[str, Any]) -> None:
    environ.pop("HTTP_AUTHORIZATION", None)


def nothing(environ: dict[str, Any]) -> None: ...


INNER = "tests.faces.test_changed_requests.changing"

CHANGE: list[Change] = [nothing]
"""The change of the running test; Django's middleware is found by its name."""


@sync_and_async_middleware
def changing(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Changes Django's request as method-override middleware and its kind do."""

    def change(request: HttpRequest) -> None:
        CHANGE[0](request.META)
        request.method = request.META["REQUEST_METHOD"]

    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> Any:
            change(request)
            return await get_response(request)

        return middleware

    def sync_middleware(request: HttpRequest) -> Any:
        change(request)
        return get_response(request)

    return sync_middleware


def _meta(headers: dict[str, str]) -> dict[str, str]:
    return {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}


def django_sync(sidecar: ScriptedSidecar, headers: dict[str, str]) -> int:
    return int(client().get("/any?amount=1", **_meta(headers)).status_code)


def django_async(sidecar: ScriptedSidecar, headers: dict[str, str]) -> int:
    with override_settings(MIDDLEWARE=[SHARING, INNER], TEST_CLIENT=sidecar.client()):
        return int(arequest("get", "/any?amount=1", headers=headers).status_code)


def flask(sidecar: ScriptedSidecar, headers: dict[str, str]) -> int:
    app = Flask("changed")
    inner = app.wsgi_app

    def changing(environ: dict[str, Any], start_response: Any) -> Any:
        CHANGE[0](environ)
        return inner(environ, start_response)

    app.wsgi_app = changing  # type: ignore[method-assign]
    Chio(app, sidecar_url=sidecar.url, trusted_kernel_keys=[sidecar.public_key])

    @app.route("/any", methods=["GET", "DELETE"])
    @require_capability
    def view() -> str:
        return "ok"

    return app.test_client().get("/any?amount=1", headers=headers).status_code


def fastapi(sidecar: ScriptedSidecar, headers: dict[str, str]) -> int:
    app = FastAPI()

    @app.api_route("/any", methods=["GET", "DELETE"])
    async def view(receipt: Annotated[Any, Depends(RequireCapability())]) -> dict[str, str]:
        return {"id": receipt.id}

    class Changing:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                lines = {name.decode(): value.decode() for name, value in scope["headers"]}
                environ = _meta(lines) | {
                    "REQUEST_METHOD": scope["method"],
                    "QUERY_STRING": scope["query_string"].decode(),
                }
                CHANGE[0](environ)
                pairs = [
                    (key[5:].replace("_", "-").lower(), value) for key, value in environ.items() if key[:5] == "HTTP_"
                ]
                pairs += [("content-type", environ["CONTENT_TYPE"])] if "CONTENT_TYPE" in environ else []
                scope = {
                    **scope,
                    "method": environ["REQUEST_METHOD"],
                    "query_string": environ["QUERY_STRING"].encode(),
                    "headers": [(name.encode(), value.encode()) for name, value in pairs],
                }
            await self.app(scope, receive, send)

    app.add_middleware(Changing)
    add_chio(app, client=sidecar.client())
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return run(call(app, "GET", "/any", query=b"amount=1", headers=raw)).status or 0


DRIVERS = [django_sync, django_async, flask, fastapi]


@pytest.fixture
def sidecar() -> Iterator[ScriptedSidecar]:
    with ScriptedSidecar().serving_in_thread() as found:
        options = {"CHIO_SIDECAR_URL": found.url, "CHIO_TRUSTED_KERNEL_KEYS": [found.public_key]}
        with override_settings(MIDDLEWARE=[CHIO, INNER], **options):
            yield found
    CHANGE[0] = nothing


@pytest.mark.parametrize("drive", DRIVERS)
@pytest.mark.parametrize("change", [method, query, content_type, caller])
def test_a_changed_request_is_evaluated_again_as_it_will_run(
    drive: Any, change: Change, sidecar: ScriptedSidecar
) -> None:
    CHANGE[0] = change
    assert drive(sidecar, {"authorization": "Bearer first", **CAPABILITY}) == 200
    first, second = [asked.document for asked in sidecar.asked]
    assert (first["method"], first["query"]) == ("GET", {"amount": "1"})
    differs = {name for name in ("method", "query", "headers", "caller") if first.get(name) != second.get(name)}
    wanted = {method: "method", query: "query", content_type: "headers", caller: "caller"}[change]
    assert differs == {wanted}


@pytest.mark.parametrize("drive", DRIVERS)
@pytest.mark.parametrize("change", [nothing, no_caller])
def test_a_request_that_loses_a_credential_or_nothing_is_evaluated_once(
    drive: Any, change: Change, sidecar: ScriptedSidecar
) -> None:
    CHANGE[0] = change
    assert drive(sidecar, {"authorization": "Bearer first", **CAPABILITY}) == 200
    assert len(sidecar.asked) == 1


def test_a_method_override_needs_what_the_overriding_method_needs(sidecar: ScriptedSidecar, tmp_path: Path) -> None:
    with override_settings(CHIO_SIDECAR_URL=f"embedded:{tmp_path}/chio.sqlite3", CHIO_TRUSTED_KERNEL_KEYS=[]):
        assert client().get("/hello").status_code == 200
        CHANGE[0] = method
        assert client().get("/hello").status_code == 403


def test_a_replaced_body_is_evaluated_again_in_django(sidecar: ScriptedSidecar) -> None:
    with override_settings(MIDDLEWARE=[CHIO, "tests.faces.test_changed_requests.replacing"]):
        response = client().post("/any", b"12345", content_type="text/plain", **_meta(CAPABILITY))
    assert response.status_code == 200
    first, second = [asked.document for asked in sidecar.asked]
    assert (first["body_length"], second["body_length"]) == (5, 3)


@sync_and_async_middleware
def replacing(get_response: Callable[[HttpRequest], Any]) -> Any:
    """Gives the view another body."""

    def middleware(request: HttpRequest) -> Any:
        request._stream = io.BytesIO(b"123")
        request.META["CONTENT_LENGTH"] = "3"
        request._body = b"123"
        return get_response(request)

    return middleware
