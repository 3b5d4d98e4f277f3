"""An approval that only the sidecar's document demands, through applications that know nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from fastapi import Depends, FastAPI

from chio_fastapi import RequireCapability, add_chio
from chio_flask import Chio
from chio_sidecar.cli import main
from tests.django.project import client as django_client
from tests.flask.apps import make
from tests.support import call, run
from tests.views.tokens import ISSUER, token

Ask = Callable[..., tuple[int, Any]]
BOTH = token(("payments", "transfer"), ("accounts", "read"))
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {"/two": {"get": {"x-chio-approval": {"threshold": 0, "currency": "USD"}, "responses": {}}}},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", ISSUER.public_hex)
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    return tmp_path / "receipts.sqlite3"


def url(store: Path) -> str:
    return f"embedded:{store}?spec={store.parent / 'spec.json'}"


def approve(store: Path, approval_id: str) -> None:
    assert main(["approval", "respond", approval_id, "--approve", "--receipt-store", str(store)]) == 0


def walk(ask: Ask, store: Path) -> None:
    """Ask, be refused, have it approved, present the approval: it runs once, although `/two` asks two questions."""
    status, refused = ask(**BOTH)
    assert status == 403
    details = refused["details"]
    assert (refused.get("error") or refused["code"]).lower() == "chio_approval_required"
    approval_id = details["approval_id"]
    assert f"repeat the same request with X-Chio-Approval: {approval_id}" in json.dumps(refused)
    early, _ = ask(**BOTH, **{"X-Chio-Approval": approval_id})
    approve(store, approval_id)
    without, _ = ask(**{"X-Chio-Approval": approval_id})  # it ends in 401 and does not use the approval up
    assert (early, without) == (403, 401)
    assert [ask(**BOTH, **{"X-Chio-Approval": approval_id})[0] for _ in range(2)] == [200, 403]


def test_with_fastapi(store: Path) -> None:
    app = FastAPI()
    demands = [Depends(RequireCapability("payments", "transfer")), Depends(RequireCapability("accounts", "read"))]
    app.add_api_route("/two", lambda: None, dependencies=demands)
    client = add_chio(app, sidecar_url=url(store))

    def ask(**headers: str) -> tuple[int, Any]:
        async def once() -> tuple[int, Any]:
            try:
                reply = await call(app, "GET", "/two", headers=[(name.lower(), text) for name, text in headers.items()])
            finally:
                await client.aclose()
            return reply.status, reply.json()

        return run(once())

    walk(ask, store)


def test_with_flask(store: Path) -> None:
    app = make()
    Chio(app, sidecar_url=url(store))

    def ask(**headers: str) -> tuple[int, Any]:
        response = app.test_client().get("/two", headers=headers)
        return response.status_code, response.json

    walk(ask, store)


def test_with_django(store: Path) -> None:
    def ask(**headers: str) -> tuple[int, Any]:
        response = django_client().get("/two", headers=headers)
        return response.status_code, response.json()["error"] if response.status_code != 200 else None

    with override_settings(CHIO_SIDECAR_URL=url(store)):
        walk(ask, store)
