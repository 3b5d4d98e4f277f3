"""require_capability on each kind of view that Django has; what holds on every face is in tests/faces."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path

from chio_core.errors import ConfigurationError
from chio_django import require_capability
from tests.django import views
from tests.django.project import CHIO, aget, arequest, client, governed, governed_async
from tests.tokens import with_token

TRANSFER = ("payments", "transfer")


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("get", "/transfer", TRANSFER),
        ("get", "/atransfer", TRANSFER),
        ("post", "/accounts", ("accounts", "open")),
        ("delete", "/accounts", ("accounts", "close")),
        ("get", "/accounts", (None, None)),
        ("get", "/vault", ("vault", "open")),
        ("head", "/vault", ("vault", "open")),
        ("get", "/async-vault", ("vault", "open")),
        ("post", "/async-accounts", ("accounts", "open")),
        ("get", "/any", (None, None)),
        ("get", "/hello", (None, None)),
    ],
)
def test_the_requirement_of_a_view_is_part_of_the_evaluation(
    method: str, path: str, wanted: tuple[str | None, str | None]
) -> None:
    with governed() as sidecar:
        client().generic(method.upper(), path)
    asked = sidecar.asked[0].document
    assert (asked.get("tool_server"), asked.get("tool_name")) == wanted
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("path", ["/transfer", "/atransfer", "/vault", "/async-vault", "/any"])
def test_without_a_capability_the_answer_is_401_and_says_which_is_missing(path: str) -> None:
    with governed() as sidecar:
        response = client().get(path)
    error = response.json()["error"]
    assert response.status_code == 401
    assert error["code"] == "CHIO_CAPABILITY_REQUIRED"
    assert "Chio" in response.headers["WWW-Authenticate"]
    assert response.headers["X-Chio-Receipt"] == error["receipt_id"]
    assert len(sidecar.asked) == 1


def test_arguments_are_converted_parameters_of_the_path() -> None:
    with governed() as sidecar:
        response = client().get("/accounts/7", headers=with_token(("accounts", "read", "read")))
    assert response.content == b"account"
    assert sidecar.asked[0].document["arguments"] == {"account": 7}
    assert len(sidecar.asked) == 1


def by_name(request: HttpRequest, account: int) -> HttpResponse:
    return views.account(request, account=account + 1)


def by_position(request: HttpRequest, account: int) -> HttpResponse:
    return views.account(request, account + 1)


@require_capability("accounts", "read", operations=["read"], arguments=lambda named: {"account": named["account"]})
async def aaccount(request: HttpRequest, account: int) -> HttpResponse:
    return HttpResponse("account")


async def asynchronous(request: HttpRequest, account: int) -> HttpResponse:
    return await aaccount(request, account + 1)


class AliasUrls:
    """Views that call a guarded view with another account than the URL states."""

    urlpatterns = tuple(path(f"{one.__name__}/<int:account>", one) for one in (by_name, by_position, asynchronous))


@pytest.mark.parametrize("alias", ["by_name", "by_position", "asynchronous"])
def test_arguments_are_those_that_the_view_is_called_with(alias: str) -> None:
    with governed(ROOT_URLCONF=AliasUrls) as sidecar:
        response = client().get(f"/{alias}/7", headers=with_token(("accounts", "read", "read")))
    assert response.content == b"account"
    assert [asked.document.get("arguments") for asked in sidecar.asked] == [None, {"account": 8}]


def test_a_method_of_a_class_based_view_is_found_by_its_http_method() -> None:
    with governed():
        assert client().get("/accounts").content == b"list"
        assert client().post("/accounts", headers=with_token(("accounts", "open"))).content == b"opened"
        assert client().delete("/accounts", headers=with_token(("accounts", "close"))).content == b"closed"
    with governed_async() as sidecar:
        assert arequest("post", "/async-accounts", headers=with_token(("accounts", "open"))).content == b"opened"
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("excluded", [False, True], ids=["governed", "excluded"])
@pytest.mark.parametrize("path", ["/transfer", "/atransfer", "/vault", "/async-vault"])
def test_without_the_capability_it_is_401_and_with_it_the_view_runs(path: str, excluded: bool) -> None:
    with governed(CHIO_EXCLUDE_PATHS=[path] if excluded else []) as sidecar:
        refused = client().get(path)
        allowed = client().get(path, headers=with_token(TRANSFER, ("vault", "open")))
    assert (refused.status_code, allowed.status_code) == (401, 200)
    assert len(sidecar.asked) == 2


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("/transfer", False),
        ("/atransfer", False),
        ("/atransfer", True),
        ("/async-vault", False),
        ("/async-vault", True),
    ],
)
def test_the_same_under_asgi(path: str, excluded: bool) -> None:
    with governed_async(exclude_paths=[path] if excluded else []) as sidecar:
        refused = aget(path)
        allowed = aget(path, headers=with_token(TRANSFER, ("vault", "open")))
    assert (refused.status_code, allowed.status_code) == (401, 200)
    assert len(sidecar.asked) == 2


def test_without_middleware_and_application_nothing_passes() -> None:
    apps = ["rest_framework", "drf_spectacular"]
    with governed(MIDDLEWARE=[], INSTALLED_APPS=apps), pytest.raises(ImproperlyConfigured, match="MIDDLEWARE"):
        views.transfer(RequestFactory().get("/transfer"))


def test_a_view_that_is_called_directly_is_evaluated_too() -> None:
    with governed() as sidecar:
        refused = views.transfer(RequestFactory().get("/transfer"))
    assert refused.status_code == 401
    assert len(sidecar.asked) == 1


def test_the_decorator_keeps_what_others_have_left_on_the_view() -> None:
    from django.views.decorators.csrf import csrf_exempt

    @require_capability("a", "b")
    @csrf_exempt
    def view(request: HttpRequest) -> HttpResponse:
        """A view."""
        return HttpResponse()

    assert view.csrf_exempt  # type: ignore[attr-defined]
    assert (view.__name__, view.__doc__) == ("view", "A view.")


def test_a_requirement_that_cannot_be_met_is_refused_when_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match="both"):
        require_capability("payments")
    with pytest.raises(ConfigurationError, match="operations"):
        require_capability("payments", "transfer", operations=["steal"])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="operations"):
        require_capability("payments", "transfer", operations="invoke")  # type: ignore[arg-type]


def test_a_function_without_a_request_cannot_be_guarded() -> None:
    guarded = require_capability("a", "b")(lambda number: number)
    with pytest.raises(ImproperlyConfigured, match="request"):
        guarded(1)


def test_the_settings_are_read_again_when_a_test_overrides_them() -> None:
    with governed() as sidecar, override_settings(MIDDLEWARE=[CHIO], CHIO_CAPABILITY_HEADER="X-Token"):
        response = client().get("/transfer", headers={"X-Token": with_token(TRANSFER)["X-Chio-Capability"]})
    assert response.status_code == 200
    assert sidecar.asked[0].capability_text
