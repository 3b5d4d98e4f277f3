"""What a route requires and states: the same names mean the same, however a framework attaches them to a view."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any

import django.urls
import pytest
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from django.views import View
from fastapi import Depends, FastAPI, Request
from flask import Blueprint, Flask
from ninja import NinjaAPI
from ninja.decorators import decorate_view
from openapi_spec_validator import OpenAPIV31SpecValidator
from rest_framework.response import Response as DRFResponse
from rest_framework.views import APIView
from starlette.testclient import TestClient

import chio_django
import chio_django.drf
import chio_fastapi
import chio_flask
from chio_core.errors import ConfigurationError
from chio_core.testing import KEY, ScriptedSidecar
from chio_core.testing.engine import Engine
from tests.django.project import CHIO
from tests.support import run
from tests.tokens import with_token

Stated = Sequence[tuple[str, Mapping[str, Any]]]
Send = Callable[..., tuple[int, str]]

ORDER = with_token(("shop", "order"), key=KEY)
JSON = "application/json"


def made(package: Any, stated: Stated) -> list[Any]:
    return [getattr(package, name)(**given) for name, given in stated]


def code_in(status: int, body: bytes) -> str:
    """Return the code of a refusal; empty for a success."""
    if status < 400:
        return ""
    error = json.loads(body)["error"]
    return (
        str(error["code"] if isinstance(error, dict) else error)
        .lower()
        .removeprefix("chio_")
        .replace("guard_denied", "access_denied")
    )


@contextmanager
def fastapi(stated: Stated, options: dict[str, Any]) -> Iterator[Send]:
    app = FastAPI()

    async def view(request: Request, n: int) -> str:
        return "ran"

    needs = [Depends(one) for one in made(chio_fastapi, stated)]
    app.add_api_route("/do/{n:int}", view, methods=["GET", "POST"], dependencies=needs)
    chio_fastapi.add_chio(app, **options)
    with TestClient(app) as client:

        def send(method: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, str]:
            found = client.request(method, "/do/7", headers={**headers, "content-type": JSON}, content=body)
            return found.status_code, code_in(found.status_code, found.content)

        yield send


def flask(attach: str) -> Any:
    @contextmanager
    def opened(stated: Stated, options: dict[str, Any]) -> Iterator[Send]:
        app, needs, place = Flask("policies", static_folder=None), made(chio_flask, stated), Blueprint("shop", "shop")

        def view(n: int) -> str:
            return "ran"

        if attach == "decorator":
            view = reduce(lambda inner, need: need(inner), reversed(needs), view)
        elif attach == "blueprint":
            place = reduce(lambda inner, need: need(inner), needs, place)
        place.add_url_rule("/do/<int:n>", "do", view, methods=["GET", "POST"])
        app.register_blueprint(place)
        chio = chio_flask.Chio(app, view_policies={"shop.do": needs} if attach == "settings" else None, **options)

        def send(method: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, str]:
            found = app.test_client().open("/do/7", method=method, headers=headers, data=body, content_type=JSON)
            return found.status_code, code_in(found.status_code, found.data)

        try:
            yield send
        finally:
            chio.close(app)

    return opened


def function(request: HttpRequest, n: int) -> HttpResponse:
    return HttpResponse("ran")


async def afunction(request: HttpRequest, n: int) -> HttpResponse:
    return HttpResponse("ran")


class Plain(View):
    def get(self, request: HttpRequest, n: int) -> HttpResponse:
        return HttpResponse("ran")

    post = get


class AsyncPlain(View):
    async def get(self, request: HttpRequest, n: int) -> HttpResponse:
        return HttpResponse("ran")

    post = get


class Rest(APIView):
    authentication_classes = ()

    def get(self, request: Any, n: int) -> DRFResponse:
        return DRFResponse("ran")

    post = get


def decorated(view: Any, needs: Sequence[Any]) -> Any:
    return reduce(lambda inner, need: need(inner), reversed(needs), view)


def mixed(view: Any, needs: Sequence[Any]) -> Any:
    return type("Mixed", (chio_django.PolicyMixin, view), {"chio_policy": needs}).as_view()


_NAMES = map("ninja-{}".format, count())


def ninja(needs: Sequence[Any], *, below: bool) -> list[Any]:
    """Return the URLs of an API whose operation is decorated below `@api.…`, or through `decorate_view`."""
    api = NinjaAPI(urls_namespace=next(_NAMES), openapi_url=None)

    def operation(request: HttpRequest, n: int) -> str:
        return "ran"

    found = decorated(operation, needs) if below else decorate_view(*reversed(needs))(operation)
    api.api_operation(["GET", "POST"], "/do/{int:n}")(found)
    return [path("", api.urls)]


def django_urls(attach: str, stated: Stated) -> list[Any]:
    if attach == "rest":
        return [path("do/<int:n>", Rest.as_view(permission_classes=made(chio_django.drf, stated)))]
    needs = made(chio_django, stated)
    plain = [path("do/<int:n>", function, name="do")]
    return {
        "decorator": lambda: [path("do/<int:n>", decorated(function, needs))],
        "class": lambda: [path("do/<int:n>", decorated(type("Fresh", (Plain,), {}), needs).as_view())],
        "mixin": lambda: [path("do/<int:n>", mixed(Plain, needs))],
        "include": lambda: [path("", chio_django.include((plain, "shop"), policy=needs))],
        "settings": lambda: plain,
        "ninja": lambda: ninja(needs, below=True),
        "ninja view": lambda: ninja(needs, below=False),
        "async": lambda: [path("do/<int:n>", decorated(afunction, needs))],
        "async mixin": lambda: [path("do/<int:n>", mixed(AsyncPlain, needs))],
    }[attach]()


def django_(attach: str) -> Any:
    @contextmanager
    def opened(stated: Stated, options: dict[str, Any]) -> Iterator[Send]:
        urls = type("Urls", (), {"urlpatterns": django_urls(attach, stated)})
        chio = {f"CHIO_{name.upper()}": value for name, value in options.items()}
        if attach == "settings":
            chio["CHIO_VIEW_POLICIES"] = {"/do/": made(chio_django, stated)}

        def send(method: str, headers: Mapping[str, str], body: bytes = b"") -> tuple[int, str]:
            given = {"data": body, "content_type": JSON, "headers": dict(headers)}
            if attach.startswith("async"):
                found = run(AsyncClient().generic(method, "/do/7", **given))
            else:
                found = client.generic(method, "/do/7", **given)
            return found.status_code, code_in(found.status_code, found.content)

        with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[CHIO], **chio):
            client = Client()
            yield send

    return opened


DJANGO = ("decorator", "class", "mixin", "include", "settings", "rest", "ninja", "ninja view", "async", "async mixin")
WAYS: Mapping[str, Any] = {
    **{f"flask {one}": flask(one) for one in ("decorator", "blueprint", "settings")},
    **{f"django {one}": django_(one) for one in DJANGO},
}
"""Ways to attach a policy to a view, beside FastAPI's dependencies, which they are compared with."""

CASES: Mapping[str, tuple[Stated, list[tuple[str, Mapping[str, str], bytes]]]] = {
    "side effects": ([("Policy", {"side_effects": True})], [("GET", {}, b""), ("GET", ORDER, b"")]),
    "no side effects": ([("Policy", {"side_effects": False})], [("GET", {}, b""), ("POST", {}, b"")]),
    "capability": (
        [("RequireCapability", {"server": "shop", "tool": "order", "arguments": lambda params: {"n": params["n"]}})],
        [("POST", {}, b""), ("POST", ORDER, b"{}"), ("GET", with_token(("shop", "other"), key=KEY), b"")],
    ),
    "two capabilities": (
        [("RequireCapability", {"server": "shop", "tool": one}) for one in ("order", "pay")],
        [("POST", ORDER, b""), ("POST", with_token(("shop", "order"), ("shop", "pay"), key=KEY), b"")],
    ),
    "approval": (
        [("RequireApproval", {"threshold": 100, "amount": chio_django.from_body("amount")})],
        [("POST", ORDER, b'{"amount": 99}'), ("POST", ORDER, b'{"amount": 101}'), ("POST", ORDER, b"{}")],
    ),
    "budget": (
        [("Budget", {"max_invocations": 1, "cost": chio_django.from_path("n")})],
        [("GET", ORDER, b""), ("GET", ORDER, b"")],
    ),
    "observe": (
        [("Observe", {}), ("RequireCapability", {"server": "shop", "tool": "order"})],
        [("POST", {}, b""), ("POST", ORDER, b"")],
    ),
}
EVALUATED = (
    "method", "path", "route_pattern", "query", "body_hash", "tool_server", "tool_name", "arguments", "governed_intent",
    "budget", "enforcement",
)  # fmt: skip


def exchange(way: Any, name: str) -> tuple[list[tuple[int, str]], list[dict[str, Any]]]:
    """Return the responses, and what was evaluated, of the requests of a case."""
    stated, requests = CASES[name]
    sidecar = ScriptedSidecar(Engine().behaviour)
    with sidecar.serving_in_thread():
        options = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key]}
        with way(stated, options) as send:
            responses = [send(*one) for one in requests]
    evaluated = [{name: one.document.get(name) for name in EVALUATED} for one in sidecar.asked]
    for one in evaluated:
        for member in ("framework", "view"):  # stated for the report, and all that differs
            (one["enforcement"] or {}).pop(member, None)
    return responses, evaluated


@pytest.mark.parametrize("name", CASES)
def test_the_same_policy_is_the_same_evaluation_and_the_same_response_in_every_framework(name: str) -> None:
    responses, evaluated = exchange(fastapi, name)
    assert len({status for status, _ in responses}) > 1 or name == "observe"
    found = {way: exchange(opened, name) for way, opened in WAYS.items()}
    assert found == dict.fromkeys(WAYS, (responses, evaluated))


@pytest.mark.parametrize("way", ["fastapi", *WAYS])
def test_the_embedded_sidecar_of_every_framework_knows_that_a_write_has_no_side_effects(
    way: str, tmp_path: Path
) -> None:
    opened = {"fastapi": fastapi, **WAYS}[way]
    options = {"sidecar_url": f"embedded:{tmp_path}/store.sqlite3"}
    with opened([("Policy", {"side_effects": False})], options) as send:
        assert send("POST", {}) == (200, "")
    (tmp_path / "other").mkdir()
    with opened(
        [("Policy", {"sensitivity": "public"})], {"sidecar_url": f"embedded:{tmp_path}/other/store.sqlite3"}
    ) as send:
        assert send("POST", {})[0] == 403


@pytest.mark.parametrize("package", [chio_django, chio_flask, chio_django.drf])
def test_two_policies_with_the_same_arguments_are_equal_in_every_framework(package: Any) -> None:
    for name, (stated, _) in CASES.items():
        assert made(package, stated) == made(chio_fastapi, stated), name


@pytest.mark.parametrize("package", [chio_django, chio_flask])
@pytest.mark.parametrize("name", ["Policy", "RequireCapability", "RequireApproval", "Budget", "Observe"])
def test_a_decorator_without_its_parentheses_says_what_to_write(package: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"@{name} lacks its parentheses and arguments: write @{name}\(…\)"):
        getattr(package, name)(function)


@pytest.mark.parametrize("given", [("a", "b"), (function,), ()])
@pytest.mark.parametrize("name", ["require_capability", "Policy", "RequireCapability", "RequireApproval", "Budget"])
def test_a_dependency_that_is_used_as_a_decorator_says_what_to_write(name: str, given: Any) -> None:
    """It was `'coroutine' object is not callable`."""
    stated = {"Policy": {"side_effects": True}}
    one = getattr(chio_fastapi, name)
    one = one if name == "require_capability" else one(**stated.get(name, {}))
    with pytest.raises(TypeError, match=r"is a dependency of FastAPI.*: write Depends\("):
        one(*given)


def test_a_decorator_above_an_operation_of_ninja_is_refused() -> None:
    api = NinjaAPI(urls_namespace=next(_NAMES))
    operation = api.get("/do")(lambda request: "ran")
    with pytest.raises(TypeError, match=r"write @Observe\(…\) below the @api"):
        chio_django.Observe()(operation)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ({"a*b": chio_django.Observe()}, "'a\\*b' must be the name of a view"),
        ({"/a/*": chio_django.Observe()}, "'/a/\\*' must be the name of a view"),
        ({"admin:*": "open"}, "CHIO_VIEW_POLICIES\\['admin:\\*'\\] takes Policy.*and not str"),
        ({"admin:*": [chio_django.Policy]}, "and not Policy without its parentheses"),
        (["admin:*"], "must be a dict"),
    ],
)
def test_a_mistake_in_the_setting_stops_the_start(views: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chio_flask.Chio(Flask("mistaken"), view_policies=views, sidecar_url="http://127.0.0.1:1")


def test_a_document_of_django_and_one_of_flask_are_valid() -> None:
    stated: Stated = [("Policy", {"side_effects": False})]
    urls = type("Urls", (), {"urlpatterns": [path("", django.urls.include((django_urls("rest", stated), "shop")))]})
    with override_settings(ROOT_URLCONF=urls):
        ours = json.loads(chio_django.document_for())
    app = Flask("documented")
    app.add_url_rule("/do/<int:n>", "do", chio_flask.Policy(side_effects=False)(lambda n: "ran"), methods=["POST"])
    theirs = json.loads(chio_flask.document_for(app))
    for document in (ours, theirs):
        OpenAPIV31SpecValidator(document).validate()
        operation = document["paths"]["/do/{n}"]["post"]
        assert operation["x-chio-side-effects"] is False
        assert operation["parameters"][0]["schema"] == {"type": "integer"}
