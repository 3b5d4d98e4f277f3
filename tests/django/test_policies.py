"""Policy of views in Django's own idiom: `include()`, settings, languages; and the list of a project's views."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import django.urls
import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path, re_path, reverse
from django.utils.decorators import method_decorator
from django.views import View

from chio_core.errors import ConfigurationError
from chio_core.routes.listing import find_overlaps
from chio_django import Budget, Observe, Policy, PolicyMixin, RequireCapability, document_for, include
from chio_django.listing import list_routes
from tests.django.project import client, governed

OPEN = Policy(side_effects=False)
SAMPLES = ("7", "2026", "old", "summer", "aa", "en", "a/b.css", "q7w3x")


def view(request: HttpRequest, **params: Any) -> HttpResponse:
    return HttpResponse("ran")


def urls(*patterns: Any) -> type:
    """Return a URLconf."""
    return type("Urls", (), {"urlpatterns": list(patterns)})


def stated(template: str, method: str = "post") -> dict[str, Any]:
    """Return the `x-chio-*` members that the document of the project states for an operation."""
    operation = json.loads(document_for())["paths"][template][method]
    return {name: value for name, value in operation.items() if name.startswith("x-chio-")}


@pytest.mark.parametrize("urlconf", ["tests.django.urls", "tests.django.i18n_urls"])
def test_every_view_is_listed_under_the_template_that_its_requests_have(urlconf: str) -> None:
    with override_settings(ROOT_URLCONF=urlconf, LANGUAGE_CODE="en"):
        routes = list(list_routes())
        assert len(routes) > 2
        for route in routes:
            paths = {re.sub(r"{\w+}", value, route.template) for value in SAMPLES}
            assert route.template in {route.resolve("GET", path) for path in paths}, route


def test_the_views_of_each_language_are_listed() -> None:
    with override_settings(ROOT_URLCONF="tests.django.i18n_urls", LANGUAGE_CODE="en"):
        assert {route.template for route in list_routes()} == {
            "/plain", "/account/{number}/", "/de/account/{number}/",
        }  # fmt: skip


def test_methods_are_listed_as_far_as_they_are_known() -> None:
    found = {}
    for route in list_routes():
        found.setdefault(route.template, set()).update(route.methods)
    assert found["/accounts"] == {"DELETE", "GET", "HEAD", "OPTIONS", "POST"}  # a class
    assert found["/pets/{pet}/tags/{tag}"] >= {"GET", "POST", "DELETE"}  # a function may handle all of them


def test_groups_of_a_regular_expression_count_where_routes_overlap() -> None:
    patterns = [
        re_path(r"^(?P<year>[0-9]{4})/new$", view),
        path("2026/<str:what>", view),
        re_path(r"^files/(?P<rest>.*)$", view),
    ]
    with override_settings(ROOT_URLCONF=urls(*patterns)):
        routes = list(list_routes())
        assert routes[-1].convertors["rest"].regex == ".*"
        (overlap,) = {(one.path, one.router, one.sidecar) for one in find_overlaps(routes)}
    assert overlap == ("/2026/new", "/{year}/new", "/2026/{what}")


def test_an_included_tree_has_the_policy_and_its_views_may_add_to_it() -> None:
    inner = [
        path(
            "b/",
            include(
                ([path("c", RequireCapability("a", "c")(view), name="c")], "deep"), policy=Budget(max_invocations=3)
            ),
        )
    ]
    with override_settings(ROOT_URLCONF=urls(path("a/", include((inner, "shop"), policy=[OPEN, Observe()])))):
        assert stated("/a/b/c") == {
            "x-chio-side-effects": False,
            "x-chio-observe": True,
            "x-chio-budget": {"currency": "USD", "max_invocations": 3},
            "x-chio-capability": [{"server": "a", "tool": "c", "operations": ["invoke"]}],
        }
        assert reverse("shop:deep:c") == "/a/b/c"


def test_the_stricter_statement_counts() -> None:
    with override_settings(
        ROOT_URLCONF=urls(path("a/b", Policy(side_effects=True)(view), name="b")),
        CHIO_VIEW_POLICIES={"/": OPEN, "b": Policy(sensitivity="public")},
    ):
        assert stated("/a/b", "get") == {"x-chio-side-effects": True, "x-chio-sensitivity": "public"}


@pytest.mark.parametrize("policy", ["open", Policy, [OPEN, None]])
def test_a_policy_that_is_none_is_refused_when_it_is_written(policy: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"takes Policy\(…\), RequireCapability\(…\)"):
        include(([], "shop"), policy=policy)
    with pytest.raises(ConfigurationError, match=r"Wrong.chio_policy takes Policy\(…\)"):
        type("Wrong", (PolicyMixin,), {"chio_policy": policy})


def test_the_urls_of_an_admin_site_are_included_as_they_are() -> None:
    site_urls = ([path("login/", view, name="login")], "admin", "own")
    with override_settings(ROOT_URLCONF=urls(path("admin/", include(site_urls, policy=OPEN)))):
        (route,) = list_routes()
        assert (route.name, route.template, route.sources) == ("own:login", "/admin/login/", (OPEN,))
        assert reverse("admin:login") == "/admin/login/"


@pytest.mark.parametrize("key", ["accounts:*", "accounts:login", "/accounts/", "/accounts", "/accounts/login/", "/"])
def test_a_key_names_views_by_name_or_by_path(key: str, tmp_path: Path) -> None:
    accounts = path("accounts/", django.urls.include(([path("login/", view, name="login")], "accounts")))
    with override_settings(
        ROOT_URLCONF=urls(accounts, path("accountsx", view)),
        CHIO_VIEW_POLICIES={key: OPEN},
        CHIO_SIDECAR_URL=f"embedded:{tmp_path}/store.sqlite3",
    ):
        assert client().post("/accounts/login/").status_code == 200
        assert client().post("/accountsx").status_code == (200 if key == "/" else 403)


def test_a_form_that_changes_nothing_by_policy_is_still_protected_by_csrf(tmp_path: Path) -> None:
    """Chio evaluates and records the login; Django decides about its token."""
    with override_settings(
        ROOT_URLCONF=urls(path("login/", view, name="login")),
        MIDDLEWARE=["chio_django.ChioDjangoMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
        CHIO_VIEW_POLICIES={"login": OPEN},
        CHIO_SIDECAR_URL=f"embedded:{tmp_path}/store.sqlite3",
    ):
        found = Client(enforce_csrf_checks=True).post("/login/", {"username": "ada"})
    assert (found.status_code, "CSRF" in found.content.decode()) == (403, True)
    assert found.headers["X-Chio-Receipt"]


def test_what_a_setting_requires_holds_for_a_view_that_only_inner_middleware_selects() -> None:
    with governed(
        MIDDLEWARE=["chio_django.ChioDjangoMiddleware", "tests.django.middleware.urlconf_by_host"],
        CHIO_VIEW_POLICIES={"/elsewhere": RequireCapability("a", "b")},
    ) as sidecar:
        assert client().post("/elsewhere/3", headers={"host": "localhost"}).status_code == 401
    assert sidecar.asked[-1].document["tool_name"] == "b"


def test_an_outer_decorator_of_a_class_is_found_beside_an_inner_one() -> None:
    @Observe()
    @method_decorator(RequireCapability("a", "b"), name="dispatch")
    class Both(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse(request.chio_passthrough.mode)  # type: ignore[attr-defined]

    with governed(ROOT_URLCONF=urls(path("both", Both.as_view()))) as sidecar:
        assert client().get("/both").content == b"observe"
    assert len(sidecar.asked) == 1


def test_views_changed_by_a_test_are_those_of_the_embedded_sidecar(tmp_path: Path) -> None:
    """The document follows `ROOT_URLCONF`."""
    with override_settings(CHIO_SIDECAR_URL=f"embedded:{tmp_path}/store.sqlite3"):
        one = client()
        for pattern, wanted in (("a/<str:one>", 200), ("<str:one>/b", 200)):
            with override_settings(ROOT_URLCONF=urls(path(pattern, OPEN(view)))):
                assert one.post("/a/b").status_code == wanted
