"""The route that is evaluated is the one that Django runs."""

from __future__ import annotations

import logging

import pytest
from django.http import HttpResponse
from django.urls import path, register_converter
from django.urls.converters import StringConverter

from chio_django.routing import template_of
from tests.django.project import CHIO, SHARING, aget, client, governed, governed_async
from tests.tokens import with_token

OTHER_HOST = {"host": "localhost"}


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/hello", "/hello"),
        ("/pets/7/tags/old", "/pets/{pet}/tags/{tag}"),
        ("/static/a/b.css", "/static/{rest}"),
        ("/archive/2026/summer/", "/archive/{year}/{var}/"),
        ("/shop/north/orders/3/", "/shop/{shop}/orders/{order}/"),
        ("/shop/north/parts/bolt-9/", "/shop/{shop}/parts/{part}/"),
        ("/api/pets/4/feed/", "/api/pets/{pk}/feed/"),
        ("/nowhere", "/nowhere"),
        ("/pets/seven/tags/old", "/pets/seven/tags/old"),
        ("/slashed", "/slashed"),
    ],
)
def test_the_template_of_the_route_is_sent(path: str, template: str) -> None:
    with governed() as sidecar:
        client().get(path)
    document = sidecar.asked[0].document
    assert (document["path"], document["route_pattern"]) == (path, template)


@pytest.mark.parametrize(
    ("route", "template"),
    [
        ("", "/"),
        ("pets/<pet>", "/pets/{pet}"),
        ("pets/<int:pet>.<str:kind>", "/pets/{pet}.{kind}"),
        ("c++/", "/c++/"),
        ("^pets/(?P<pet>[^/]+)/$", "/pets/{pet}/"),
        (r"api/<int:v>/^x/(?P<y>\d+)$", "/api/{v}/x/{y}"),
        (r"^[ab]/(\d+)$", None),
        (r"^\d+/$", None),
        ("^pets/(?P<pet>(a|b)(c)?)/?$", "/pets/{pet}/"),
        (r"^v1\.0/pets\Z", "/v1.0/pets"),
    ],
)
def test_routes_become_templates(route: str, template: str | None) -> None:
    assert template_of(route) == template


def test_a_url_is_resolved_once_before_django_resolves_it() -> None:
    resolved: list[str] = []

    class Noted(StringConverter):
        def to_python(self, value: str) -> str:
            resolved.append(value)
            return value

    register_converter(Noted, "noted")
    urls = (path("noted/<noted:name>", lambda request, name: HttpResponse(name)),)
    with governed(ROOT_URLCONF=urls):
        assert client().get("/noted/a").content == b"a"
    assert resolved == ["a", "a"]


def test_a_url_conf_that_outer_middleware_chose_is_the_one_that_counts() -> None:
    chooser = "tests.django.middleware.urlconf_by_host"
    with governed(MIDDLEWARE=[chooser, CHIO]) as sidecar:
        client().get("/elsewhere/3", headers=OTHER_HOST)
        refused = client().get("/hello", headers=OTHER_HOST)
    assert sidecar.asked[0].document["route_pattern"] == "/elsewhere/{place}"
    assert sidecar.asked[1].document["tool_name"] == "transfer"
    assert refused.status_code == 401


def test_a_url_conf_that_inner_middleware_chose_is_evaluated_again(caplog: pytest.LogCaptureFixture) -> None:
    chooser = "tests.django.middleware.urlconf_by_host"
    with caplog.at_level(logging.WARNING, logger="chio"), governed(MIDDLEWARE=[CHIO, chooser]) as sidecar:
        response = client().get("/elsewhere/3", headers=OTHER_HOST)
        refused = client().get("/hello", headers=OTHER_HOST)
        plain = client().get("/hello")
    patterns = [asked.document["route_pattern"] for asked in sidecar.asked]
    assert patterns == ["/elsewhere/3", "/elsewhere/{place}", "/hello", "/hello", "/hello"]
    assert sidecar.asked[3].document["tool_name"] == "transfer"
    assert (response.status_code, refused.status_code, plain.status_code) == (200, 401, 200)
    assert "evaluated again" in caplog.text


def test_a_path_that_inner_middleware_rewrites_is_evaluated_again() -> None:
    rewriting = "tests.django.middleware.rewriting"
    with governed(MIDDLEWARE=[CHIO, rewriting], CHIO_EXCLUDE_PATHS=["/v1/transfer"]) as sidecar:
        excluded = client().get("/v1/transfer")
        rewritten = client().get("/v1/hello")
    assert excluded.status_code == 401
    assert rewritten.status_code == 200
    assert rewritten.headers["X-Chio-Receipt"] == rewritten.json()["typed"]
    assert [asked.path for asked in sidecar.asked] == ["/transfer", "/v1/hello", "/hello"]


def test_the_same_under_asgi() -> None:
    rewriting = "tests.django.middleware.rewriting"
    with governed_async(MIDDLEWARE=[SHARING, rewriting]) as sidecar:
        rewritten, refused = aget("/v1/hello"), aget("/v1/transfer")
    assert (rewritten.status_code, refused.status_code) == (200, 401)
    assert [asked.path for asked in sidecar.asked] == ["/v1/hello", "/hello", "/v1/transfer", "/transfer"]


@pytest.mark.parametrize("place", [0, 1])
def test_language_prefixes_are_understood_wherever_the_locale_middleware_is(place: int) -> None:
    stack = [CHIO]
    stack.insert(place, "django.middleware.locale.LocaleMiddleware")
    with governed(MIDDLEWARE=stack, ROOT_URLCONF="tests.django.i18n_urls") as sidecar:
        german = client().get("/de/account/5/", headers=with_token(("payments", "transfer")))
        english = client().get("/account/5/", headers=with_token(("payments", "transfer")) | {"accept-language": "de"})
        client().get("/plain")
    assert (german.status_code, english.status_code) == (200, 200)
    patterns = [asked.document["route_pattern"] for asked in sidecar.asked]
    assert patterns == ["/de/account/{number}/", "/account/{number}/", "/plain"]
    assert [asked.document.get("tool_name") for asked in sidecar.asked] == ["transfer", "transfer", None]


def test_behind_a_script_name_the_router_s_path_is_sent() -> None:
    with governed(CHIO_EXCLUDE_PATHS=["/healthz"]) as sidecar:
        client().get("/hello", SCRIPT_NAME="/app")
        client().get("/healthz", SCRIPT_NAME="/app")
    assert [asked.path for asked in sidecar.asked] == ["/hello"]


def test_append_slash_redirects_only_what_was_evaluated() -> None:
    with governed(MIDDLEWARE=[CHIO, "django.middleware.common.CommonMiddleware"]) as sidecar:
        response = client().get("/slashed?a=1")
    assert response.headers["Location"] == "/slashed/?a=1"
    assert sidecar.asked[0].document["route_pattern"] == "/slashed"
