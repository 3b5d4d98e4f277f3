"""Django REST framework: a capability as a permission class, and in the OpenAPI document."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from chio_core.testing import behaviours
from tests.django.project import CHIO, client, governed
from tests.tokens import with_token

TRANSFER = ("payments", "transfer")


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("POST", "/api/transfers", TRANSFER),
        ("GET", "/api/combined", TRANSFER),
        ("GET", "/api/either", (None, None)),
        ("GET", "/api/free", (None, None)),
        ("POST", "/api/pets/4/feed/", ("pets", "feed")),
        ("GET", "/api/pets/", (None, None)),
    ],
)
def test_the_requirement_is_part_of_the_evaluation(method: str, path: str, wanted: tuple[Any, Any]) -> None:
    with governed() as sidecar:
        client().generic(method, path)
    asked = sidecar.asked[0].document
    assert (asked.get("tool_server"), asked.get("tool_name")) == wanted
    assert len(sidecar.asked) == 1


@pytest.mark.parametrize(
    ("method", "path", "grant"),
    [
        ("POST", "/api/transfers", TRANSFER),
        ("GET", "/api/combined", TRANSFER),
        ("POST", "/api/pets/4/feed/", ("pets", "feed")),
        ("POST", "/api/by-function", ("some", "thing")),
    ],
)
def test_a_permission_requires_its_capability_in_one_evaluation(method: str, path: str, grant: tuple[str, str]) -> None:
    with governed() as sidecar:
        refused = client().generic(method, path)
        allowed = client().generic(method, path, headers=with_token(grant))
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "CHIO_CAPABILITY_REQUIRED"
    assert "Chio" in refused.headers["WWW-Authenticate"]
    assert allowed.status_code == 200
    assert len(sidecar.asked) == 2


def test_the_view_reads_the_body_after_it_was_hashed() -> None:
    with governed() as sidecar:
        response = client().post("/api/transfers", {"to": "b"}, "application/json", headers=with_token(TRANSFER))
    assert response.json()["moved"] == {"to": "b"}
    assert sidecar.asked[0].document["body_length"] == 11


def test_a_decorator_below_api_view_evaluates_by_itself() -> None:
    with governed() as sidecar:
        refused = client().post("/api/decorated")
        allowed = client().post("/api/decorated", headers=with_token(TRANSFER))
    assert (refused.status_code, allowed.status_code) == (401, 200)
    assert [asked.document.get("tool_name") for asked in sidecar.asked] == [None, "transfer"] * 2


@pytest.mark.parametrize("path", ["/api/transfers", "/api/by-function"])
def test_without_the_middleware_a_permission_evaluates_by_itself(path: str) -> None:
    with governed(MIDDLEWARE=[]) as sidecar:
        refused = client().post(path)
        allowed = client().post(path, {}, "application/json", headers=with_token(TRANSFER))
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "CHIO_CAPABILITY_REQUIRED"
    assert allowed.status_code == 200
    assert len(sidecar.asked) == 2


def test_a_sidecar_that_is_away_is_503_with_a_time_to_try_again() -> None:
    with governed(behaviours.REFUSE, MIDDLEWARE=[]):
        response = client().post("/api/transfers", headers=with_token(TRANSFER))
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("path", ["/api/transfers", "/api/by-function"])
def test_the_refusal_of_a_permission_is_not_stored_and_links_to_its_explanation(path: str) -> None:
    with governed(MIDDLEWARE=[], CHIO_EXPLAIN_URL="https://chio.internal/why?{receipt_id}"):
        refused = client().post(path)
        allowed = client().post(path, {}, "application/json", headers=with_token(TRANSFER))
    error = refused.json()["error"]
    assert refused.headers["Cache-Control"] == "no-store"
    assert error["explain_url"] == f"https://chio.internal/why?{error['receipt_id']}"
    assert refused.headers["Link"] == f'<{error["explain_url"]}>; rel="help"'
    assert not {"Cache-Control", "Link"} & set(allowed.headers)


@pytest.mark.parametrize("middleware", [[CHIO], []], ids=["middleware", "permission alone"])
@pytest.mark.parametrize(("path", "requires"), [("/api/transfers", "payments/transfer"), ("/api/by-function", "any")])
def test_a_permission_is_observed_without_its_capability(middleware: list[str], path: str, requires: str) -> None:
    with governed(CHIO_OBSERVE=True, MIDDLEWARE=middleware) as sidecar:
        observed = client().post(path, {}, "application/json")
        allowed = client().post(path, {}, "application/json", headers=with_token(TRANSFER))
    receipt = allowed.json()["receipt"]
    assert (observed.json()["receipt"], observed.json()["mark"]) == (None, ["observe", "chio_capability_required"])
    assert (allowed.json()["mark"], allowed.headers.get("X-Chio-Receipt", receipt)) == (None, receipt)
    found = [asked.document["enforcement"] for asked in sidecar.asked]
    assert all(one.pop("view").startswith("tests.django.") for one in found)
    assert found == [{"mode": "observe", "requires": requires, "framework": "django"}] * 2


def test_an_alternative_does_not_turn_a_refusal_into_a_success() -> None:
    with governed(behaviours.DENY):
        assert client().get("/api/either").status_code == 403


def test_the_openapi_document_states_the_capability() -> None:
    document = SchemaGenerator().get_schema(request=None, public=True)
    scheme = document["components"]["securitySchemes"]["ChioCapability"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "X-Chio-Capability")
    paths = document["paths"]
    assert paths["/api/transfers"]["post"]["security"] == [{"ChioCapability": []}]
    assert paths["/api/by-function"]["post"]["security"] == [{"ChioCapability": []}]
    assert paths["/api/pets/{id}/feed/"]["post"]["security"] == [{"ChioCapability": []}]
    assert "ChioCapability" not in str(paths["/api/free"]["get"].get("security"))


def test_without_django_rest_framework_it_says_what_is_missing() -> None:
    code = "import sys; sys.modules['rest_framework'] = None; import chio_django.drf"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert "pip install djangorestframework" in done.stderr
