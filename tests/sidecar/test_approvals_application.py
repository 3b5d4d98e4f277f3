"""Applications with an embedded sidecar: approvals from the refusal to the handler, in every framework."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

from chio_fastapi import Budget, RequireApproval, RequireCapability, add_chio, from_body
from tests.faces.faces import FACES, Face, Observation
from tests.faces.wire import request
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

BOTH = with_token(("payments", "transfer"), ("accounts", "read"))
SPEC = {
    "openapi": "3.1.0",
    "info": {"title": "t", "version": "1"},
    "paths": {"/needs/two": {"get": {"x-chio-approval": {"threshold": 0, "currency": "USD"}, "responses": {}}}},
}


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", ISSUER.public_hex)
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    return f"embedded:{tmp_path / 'receipts.sqlite3'}?spec={tmp_path / 'spec.json'}"


@pytest.mark.parametrize("face", [face for face in FACES if face.asks], ids=str)
def test_an_approval_opens_a_route_that_requires_two_capabilities_once(
    face: Face, url: str, tmp_path: Path, cli: CommandLine
) -> None:
    with face.opened(sidecar_url=url) as send:

        def get(**headers: str) -> Observation:
            return send(request("GET", "/needs/two", headers))

        refused = get(**BOTH)
        assert (refused.status, refused.code) == (403, face.code("chio_approval_required"))
        approval_id = refused.problem["details"]["approval_id"]
        assert f"repeat the same request with X-Chio-Approval: {approval_id}" in refused.body.decode()
        early = get(**BOTH, **{"X-Chio-Approval": approval_id})
        cli("approval", "respond", approval_id, "--approve", "--receipt-store", tmp_path / "receipts.sqlite3")
        without = get(**{"X-Chio-Approval": approval_id})  # it ends in 401 and does not use the approval
        assert (early.status, without.status) == (403, 401)
        assert [get(**BOTH, **{"X-Chio-Approval": approval_id}).status for _ in range(2)] == [200, 403]
