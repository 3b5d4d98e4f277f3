"""Observe mode on each kind of view that Django has; what holds on every face is in tests/faces."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import override_settings
from django.urls import path
from rest_framework.decorators import api_view, permission_classes
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from chio_core.testing import KEY
from chio_django import get_chio_receipt, require_capability
from chio_django.drf import ChioCapability
from tests.django.project import aget, client, governed, governed_async
from tests.tokens import with_token

TRANSFER = ("payments", "transfer")


def seen(request: Any) -> dict[str, Any]:
    inner = getattr(request, "_request", request)
    typed = get_chio_receipt(request)
    mark = inner.chio_passthrough
    return {
        "receipt": inner.chio_receipt["id"] if inner.chio_receipt is not None else None,
        "typed": typed.id if typed is not None else None,
        "mark": [mark.mode, mark.error] if mark is not None else None,
        "observed": inner.chio_decision.observed,
    }


@require_capability(*TRANSFER)
def transfer(request: HttpRequest) -> HttpResponse:
    return JsonResponse(seen(request))


@require_capability(*TRANSFER)
async def atransfer(request: HttpRequest) -> HttpResponse:
    return JsonResponse(seen(request))


@require_capability(*TRANSFER)
@require_capability("accounts", "read")
def two(request: HttpRequest) -> HttpResponse:
    return JsonResponse(seen(request))


class ByClass(APIView):
    permission_classes = (ChioCapability.of(*TRANSFER),)

    def get(self, request: Request) -> Response:
        return Response(seen(request))


@api_view(["GET"])
@permission_classes([ChioCapability])
def by_function(request: Request) -> Response:
    return Response(seen(request))


class Urls:
    urlpatterns = (
        path("transfer", transfer),
        path("atransfer", atransfer),
        path("two", two),
        path("by-class", ByClass.as_view()),
        path("by-function", by_function),
    )


OBSERVE: dict[str, Any] = {"CHIO_OBSERVE": True, "ROOT_URLCONF": Urls}
NOTHING = {"receipt": None, "typed": None, "observed": True}
VIEWS = ["/transfer", "/atransfer", "/two", "/by-class", "/by-function"]


@pytest.mark.parametrize("where", VIEWS)
def test_a_view_runs_without_the_capability_that_it_requires(where: str) -> None:
    with governed(**OBSERVE) as sidecar:
        response = client().get(where)
    assert response.status_code == 200
    assert response.json() == NOTHING | {"mark": ["observe", "chio_capability_required"]}
    assert "X-Chio-Receipt" in response.headers
    requires = "any" if where == "/by-function" else "payments/transfer"
    stated = sidecar.asked[0].document["enforcement"]
    assert stated.pop("view").startswith("tests.django.")
    assert stated == {"mode": "observe", "requires": requires, "framework": "django"}


@pytest.mark.parametrize("where", ["/transfer", "/atransfer", "/by-class", "/by-function"])
def test_with_the_capability_it_has_its_receipt(where: str) -> None:
    with governed(**OBSERVE) as sidecar:
        response = client().get(where, headers=with_token(TRANSFER))
    assert response.json() == {
        "receipt": response.headers["X-Chio-Receipt"],
        "typed": response.headers["X-Chio-Receipt"],
        "mark": None,
        "observed": False,
    }
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize("where", VIEWS)
def test_the_same_under_asgi(where: str) -> None:
    with governed_async(observe=True, ROOT_URLCONF=Urls) as sidecar:
        response = aget(where)
    assert response.json() == NOTHING | {"mark": ["observe", "chio_capability_required"]}
    assert all(asked.document["enforcement"]["mode"] == "observe" for asked in sidecar.asked)


@pytest.mark.parametrize("where", ["/transfer", "/atransfer", "/two"])
def test_decorators_without_the_middleware_observe_too(where: str) -> None:
    with governed(**OBSERVE, MIDDLEWARE=[]) as sidecar:
        response = client().get(where)
    assert response.json() == NOTHING | {"mark": ["observe", "chio_capability_required"]}
    assert all(asked.document["enforcement"]["mode"] == "observe" for asked in sidecar.asked)


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ({"CHIO_OBSERVE": True}, "chio.W009"),
        ({"CHIO_OBSERVE_PATHS": ["/a"]}, "chio.W009"),
        ({"CHIO_OBSERVE_PREFIXES": "/a,/b"}, "chio.W009"),
        ({"CHIO_EXCLUDE_METHODS": ["GET"]}, "chio.W008"),
    ],
)
def test_a_deployment_is_warned(setting: dict[str, Any], wanted: str) -> None:
    with override_settings(CHIO_TRUSTED_KERNEL_KEYS=[KEY.public_hex], **setting):
        found = [one for one in run_checks(include_deployment_checks=True) if str(one.id).startswith("chio.")]
    assert [one.id for one in found] == [wanted]
    assert all(one.hint for one in found)
