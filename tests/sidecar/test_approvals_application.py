"""Applications with an embedded sidecar: approvals from the refusal to the handler, in every framework."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from django.test import override_settings
from fastapi import Depends, FastAPI

from chio_fastapi import Budget, RequireApproval, RequireCapability, add_chio, from_body
from chio_flask import Chio
from tests.django.project import client as django_client
from tests.flask.apps import make
from tests.sidecar.control_tools import CommandLine
from tests.sidecar.sidecar_tools import AUTHORITY, capability, grant, token_text
from tests.support import Reply, call, run
from tests.tokens import ISSUER, with_token

AMOUNT = from_body("amount")


def application(store: Path, ran: list[int]) -> FastAPI:
    """`POST /pay` wants a capability, above 100 an approval, and has a budget of 1000."""
    app = FastAPI()

    @app.post("/pay/{account}")
    async def pay(
        account: int,
        capability: Annotated[Any, Depends(RequireCapability("bank", "pay"))],
        approval: Annotated[Any, Depends(RequireApproval(100, "USD", amount=AMOUNT))],
        budget: Annotated[Any, Depends(Budget(cost=AMOUNT, max_total_cost=1000))],
    ) -> None:
        ran.append(account)

    add_chio(app, sidecar_url=f"embedded:{store}")
    return app


def pay(app: FastAPI, amount: int, account: int = 7, **headers: str) -> Reply:
    token = capability(grants=[grant("bank", "pay")], issued=int(time.time()) - 60)
    lines = [("content-type", "application/json"), ("x-chio-capability", token_text(token))]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return run(call(app, "POST", f"/pay/{account}", body=json.dumps({"amount": amount}).encode(), headers=lines))


def test_from_the_refusal_over_the_command_line_to_the_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine
) -> None:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", AUTHORITY.public_hex)
    store, ran = tmp_path / "chio.sqlite3", list[int]()
    app = application(store, ran)
    assert (pay(app, 100).status, ran) == (200, [7])
    refused = pay(app, 600)
    document = refused.json()
    assert (refused.status, document["error"], ran) == (403, "chio_approval_required", [7])
    approval_id = document["details"]["approval_id"]
    assert "approved" in cli("approval", "respond", approval_id, "--approve", "--receipt-store", store)
    assert pay(app, 601, x_chio_approval=approval_id).json()["guard"] == "ApprovalGuard"
    assert (pay(app, 600, x_chio_approval=approval_id).status, ran) == (200, [7, 7])
    assert pay(app, 600, x_chio_approval=approval_id).json()["message"] == f"approval {approval_id} was used already"
    # 700 of 1000 are spent, on the route and not on one account.
    assert [pay(app, 100, account).status for account in (1, 2, 3, 4)] == [200, 200, 200, 403]
    over = pay(app, 1, 5).json()
    assert over["message"] == ("budget exceeded: cost 1 USD, and 0 USD are left of 1000 USD for POST /pay/{account}")
    assert over["guard"] == "BudgetGuard"
    assert ran == [7, 7, 1, 2, 3]


# An approval that only the document requires: the applications do not know of it.

Get = Callable[..., tuple[int, Any]]
Walk = Callable[[Get], None]
BOTH = with_token(("payments", "transfer"), ("accounts", "read"))
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {"/two": {"get": {"x-chio-approval": {"threshold": 0, "currency": "USD"}, "responses": {}}}},
}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", ISSUER.public_hex)
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    return f"embedded:{tmp_path / 'receipts.sqlite3'}?spec={tmp_path / 'spec.json'}"


@pytest.fixture
def walk(tmp_path: Path, cli: CommandLine) -> Walk:
    """From the refusal over the approval to the handler: it runs once, although `/two` requires two capabilities."""

    def check(get: Get) -> None:
        status, refused = get(**BOTH)
        assert status == 403
        assert (refused.get("error") or refused["code"]).lower() == "chio_approval_required"
        approval_id = refused["details"]["approval_id"]
        assert f"repeat the same request with X-Chio-Approval: {approval_id}" in json.dumps(refused)
        early, _ = get(**BOTH, **{"X-Chio-Approval": approval_id})
        cli("approval", "respond", approval_id, "--approve", "--receipt-store", tmp_path / "receipts.sqlite3")
        without, _ = get(**{"X-Chio-Approval": approval_id})  # it ends in 401 and does not use the approval
        assert (early, without) == (403, 401)
        assert [get(**BOTH, **{"X-Chio-Approval": approval_id})[0] for _ in range(2)] == [200, 403]

    return check


def test_with_fastapi(url: str, walk: Walk) -> None:
    app = FastAPI()
    demands = [Depends(RequireCapability("payments", "transfer")), Depends(RequireCapability("accounts", "read"))]
    app.add_api_route("/two", lambda: None, dependencies=demands)
    client = add_chio(app, sidecar_url=url)

    def get(**headers: str) -> tuple[int, Any]:
        async def once() -> tuple[int, Any]:
            try:
                reply = await call(app, "GET", "/two", headers=[(name.lower(), text) for name, text in headers.items()])
            finally:
                await client.aclose()
            return reply.status, reply.json()

        return run(once())

    walk(get)


def test_with_flask(url: str, walk: Walk) -> None:
    app = make()
    Chio(app, sidecar_url=url)

    def get(**headers: str) -> tuple[int, Any]:
        response = app.test_client().get("/two", headers=headers)
        return response.status_code, response.json

    walk(get)


def test_with_django(url: str, walk: Walk) -> None:
    def get(**headers: str) -> tuple[int, Any]:
        response = django_client().get("/two", headers=headers)
        return response.status_code, response.json()["error"] if response.status_code != 200 else None

    with override_settings(CHIO_SIDECAR_URL=url):
        walk(get)
