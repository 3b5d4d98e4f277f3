"""Approvals and budgets, as a test sees them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from chio_core import ConfigurationError
from chio_core.testing import ChioFixture
from chio_fastapi import add_chio
from chio_fastapi.dependencies import Budget, RequireApproval


@pytest.fixture
def client(chio: ChioFixture) -> Iterator[TestClient]:
    app = FastAPI()
    add_chio(app, client=chio.client)

    @app.post("/payouts/{amount}", dependencies=[Depends(RequireApproval(100, amount=_amount))])
    async def payout(amount: int) -> int:
        return amount

    @app.post("/images", dependencies=[Depends(Budget(cost=2, max_invocations=3, max_total_cost=5))])
    async def image() -> str:
        return "drawn"

    with TestClient(app) as found:
        yield found


def _amount(params: object) -> int:
    assert isinstance(params, dict)
    return int(params["amount"])


def test_what_is_below_the_threshold_needs_no_approval(client: TestClient, chio: ChioFixture) -> None:
    assert client.post("/payouts/100", headers=chio.headers()).status_code == 200
    assert chio.approvals == []


def test_an_approval_opens_the_same_request_once(client: TestClient, chio: ChioFixture) -> None:
    token = chio.capability()
    refused = client.post("/payouts/500", headers=chio.headers(token))
    assert (refused.status_code, refused.json()["error"]) == (403, "chio_approval_required")
    (waiting,) = chio.approvals
    assert (waiting.state, waiting.demand.amount, waiting.request.path) == ("pending", 500, "/payouts/500")
    assert refused.json()["details"]["approval_id"] == waiting.id
    assert chio.receipts[-1].verdict.verdict == "incomplete"
    assert client.post("/payouts/500", headers=chio.headers(token)).json()["details"]["approval_id"] == waiting.id
    chio.approve(waiting.id)
    approved = chio.headers(token, approval=waiting)
    assert client.post("/payouts/501", headers=approved).json()["message"].endswith("is for another request")
    assert client.post("/payouts/500", headers=approved).status_code == 200
    assert client.post("/payouts/500", headers=approved).json()["message"].endswith("was used already")


def test_an_operator_may_say_no(client: TestClient, chio: ChioFixture) -> None:
    token = chio.capability()
    client.post("/payouts/500", headers=chio.headers(token))
    answer = client.post("/payouts/500", headers=chio.headers(token, approval=chio.reject()))
    assert (answer.status_code, answer.json()["message"]) == (403, "approval approval-1 was denied")


def test_an_approval_that_there_is_not_and_a_token_of_another_operator_open_nothing(
    client: TestClient, chio: ChioFixture
) -> None:
    for presented in ("approval-7", '{"approval_id":"approval-1","decision":"approved"}'):
        answer = client.post("/payouts/500", headers=chio.headers(approval=presented))
        assert answer.status_code == 403
        assert answer.json()["message"].endswith("is not known")


def test_nobody_can_approve_what_nobody_has_asked_for(chio: ChioFixture) -> None:
    with pytest.raises(ConfigurationError, match="no request waits for an approval approval-9"):
        chio.approve("approval-9")


def test_a_budget_is_spent_by_each_holder_of_a_capability(client: TestClient, chio: ChioFixture) -> None:
    def draw(token: str) -> int:
        return client.post("/images", headers=chio.headers(token)).status_code

    one, other = chio.capability(), chio.capability()
    assert [draw(one), draw(one), draw(one), draw(other)] == [200, 200, 403, 200]
    assert chio.receipts[2].verdict.reason == (
        "budget exceeded: cost 2 USD, and 1 USD are left of 5 USD for POST /images"
    )


def test_allowing_meets_every_demand(client: TestClient, chio: ChioFixture) -> None:
    chio.allow()
    assert client.post("/payouts/500", headers=chio.headers()).status_code == 200
    assert [client.post("/images").status_code for _ in range(4)] == [200] * 4
