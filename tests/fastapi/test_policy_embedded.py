"""Approvals and budgets end to end: an application, and the embedded sidecar with its store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request

from chio_asgi.listing import document_for
from chio_core.client.client import ChioClient
from chio_fastapi import Budget, RequireApproval, RequireCapability, from_body
from chio_sidecar.embedded import open_embedded
from tests.fastapi.apps import AUTHORITY, govern, with_and_without, with_token
from tests.fastapi.demanding import JSON, problem
from tests.support import Reply, call, settings

HOLDER = with_token(("pay", "out"))
OTHER = with_token(("pay", "out"), identifier="cap-2")
PAY = [RequireCapability("pay", "out"), RequireApproval(100, amount=from_body("amount"))]


class Shop:
    """A route that demands something, its sidecar, and that sidecar's operator."""

    def __init__(self, sidecar: Any, demands: list[Any], middleware: bool) -> None:
        self._transport = httpx.ASGITransport(sidecar.app, client=("127.0.0.1", 50_000))
        self.app, self.ran = FastAPI(), 0
        self.app.add_api_route(
            "/pay/{account}", self._handler, methods=["POST"], dependencies=[Depends(one) for one in demands]
        )
        govern(
            self.app,
            ChioClient(settings(trusted_kernel_keys=(sidecar.public_key,)), transport=self._transport),
            middleware,
        )

    async def _handler(self, request: Request) -> None:
        self.ran += 1

    async def pay(self, amount: int, *headers: tuple[str, str], holder: Any = HOLDER, path: str = "/pay/7",
                  query: bytes = b"") -> Reply:  # fmt: skip
        body = json.dumps({"amount": amount}).encode()
        return await call(self.app, "POST", path, body=body, query=query, headers=[*holder, JSON, *headers])

    async def waits_for(self, amount: int) -> str:
        """Pay something that needs an approval; return the approval's id."""
        reply = await self.pay(amount)
        assert (reply.status, problem(reply)["error"]) == (403, "chio_approval_required"), reply.json()
        return str(problem(reply)["details"]["approval_id"])

    async def answer(self, approval_id: str, outcome: str = "approved") -> None:
        """Answer as the operator."""
        async with httpx.AsyncClient(transport=self._transport, base_url="http://127.0.0.1:9090") as operator:
            told = await operator.post(f"/approvals/{approval_id}/operator-respond", json={"outcome": outcome})
        assert told.status_code == 200, told.text


@asynccontextmanager
async def opened(tmp_path: Path, demands: list[Any], middleware: bool = True, options: str = "") -> AsyncIterator[Shop]:
    """Open a shop before an embedded sidecar; options are those of its URL."""
    environ = {"CHIO_TRUSTED_ISSUER_KEY": AUTHORITY.public_hex}
    sidecar = open_embedded(f"{tmp_path}/receipts.sqlite3{options}", environ=environ)
    try:
        yield Shop(sidecar, demands, middleware)
    finally:
        await sidecar.close()


def documented(tmp_path: Path, demands: list[Any], middleware: bool = True) -> AbstractAsyncContextManager[Shop]:
    """Open a shop before a sidecar whose `--spec` is the application's document."""
    described, document = FastAPI(), tmp_path / "openapi.json"
    route = [Depends(one) for one in demands]
    described.add_api_route("/pay/{account}", lambda: None, methods=["POST"], dependencies=route)
    document.write_text(document_for(described))
    return opened(tmp_path, demands, middleware, f"?spec={document}")


def approval(approval_id: str) -> tuple[str, str]:
    return "x-chio-approval", approval_id


@with_and_without
async def test_an_approved_request_runs_once_and_only_unchanged(tmp_path: Path, middleware: bool) -> None:
    async with opened(tmp_path, PAY, middleware) as shop:
        assert (await shop.pay(100)).status == 200  # up to the threshold no approval is needed
        approval_id = await shop.waits_for(101)
        assert await shop.waits_for(101) == approval_id
        early = await shop.pay(101, approval(approval_id))
        assert (early.status, shop.ran) == (403, 1)
        await shop.answer(approval_id)
        for other in (
            shop.pay(102, approval(approval_id)),
            shop.pay(101, approval(approval_id), path="/pay/8"),
            shop.pay(101, approval(approval_id), query=b"a=1"),
            shop.pay(101, approval(approval_id), holder=OTHER),
            shop.pay(101, approval("apr-of-nobody")),
        ):
            reply = await other
            assert (reply.status, problem(reply)["guard"], shop.ran) == (403, "ApprovalGuard", 1)
        done = await shop.pay(101, approval(approval_id))
        assert (done.status, shop.ran) == (200, 2)
        again = await shop.pay(101, approval(approval_id))
        assert (again.status, problem(again)["guard"], shop.ran) == (403, "ApprovalGuard", 2)


async def test_what_was_denied_does_not_run(tmp_path: Path) -> None:
    async with opened(tmp_path, PAY) as shop:
        approval_id = await shop.waits_for(500)
        await shop.answer(approval_id, "denied")
        reply = await shop.pay(500, approval(approval_id))
        assert (reply.status, problem(reply)["error"], shop.ran) == (403, "chio_access_denied", 0)


async def test_fifty_repetitions_of_one_approved_request_are_one_run(tmp_path: Path) -> None:
    async with opened(tmp_path, PAY) as shop:
        approval_id = await shop.waits_for(500)
        await shop.answer(approval_id)
        replies = await asyncio.gather(*(shop.pay(500, approval(approval_id)) for _ in range(50)))
        assert sorted(reply.status for reply in replies) == [200, *[403] * 49]
        assert shop.ran == 1


@with_and_without
async def test_of_fifty_concurrent_requests_the_budget_lets_ten_run(tmp_path: Path, middleware: bool) -> None:
    async with opened(tmp_path, [RequireCapability("pay", "out"), Budget(max_invocations=10)], middleware) as shop:
        replies = await asyncio.gather(*(shop.pay(1) for _ in range(50)))
        assert sorted(reply.status for reply in replies) == [*[200] * 10, *[403] * 40]
        assert shop.ran == 10
        assert {problem(reply)["guard"] for reply in replies if reply.status == 403} == {"BudgetGuard"}
        assert (await shop.pay(1, holder=OTHER)).status == 200  # another capability has its own account


@pytest.mark.parametrize("limit", ["max_total_cost", "max_cost_per_invocation"])
async def test_costs_are_added_up_and_none_may_be_too_high(tmp_path: Path, limit: str) -> None:
    limits: dict[str, int] = {limit: 10}

    async with opened(tmp_path, [Budget(cost=from_body("amount"), **limits)]) as shop:
        statuses = [(await shop.pay(cost)).status for cost in (11, 6, 5, 4, 1)]
        total = limit == "max_total_cost"
        assert statuses == ([403, 200, 403, 200, 403] if total else [403, 200, 200, 200, 200])
        assert shop.ran == statuses.count(200)


@with_and_without
async def test_a_request_that_waits_for_its_approval_spends_nothing(tmp_path: Path, middleware: bool) -> None:
    async with opened(tmp_path, [Budget(max_invocations=1), *PAY], middleware) as shop:
        approval_id = await shop.waits_for(500)
        assert await shop.waits_for(500) == approval_id
        await shop.answer(approval_id)
        done = await shop.pay(500, approval(approval_id))
        assert (done.status, shop.ran) == (200, 1)
        assert (await shop.pay(1)).status == 403  # the one use was that one


async def test_without_a_capability_no_approval_is_requested(tmp_path: Path) -> None:
    async with opened(tmp_path, PAY) as shop:
        reply = await shop.pay(500, holder=[])
        assert (reply.status, problem(reply)["error"], shop.ran) == (401, "chio_capability_required", 0)
        denied = await shop.pay(500, holder=with_token(("pay", "in")))
        assert (denied.status, problem(denied)["guard"]) == (403, "CapabilityGuard")


async def test_a_sidecar_that_has_the_applications_document_comes_to_the_same(tmp_path: Path) -> None:
    demands = [*PAY, Budget(cost=from_body("amount"), max_total_cost=700)]
    async with documented(tmp_path, demands) as shop:
        assert (await shop.pay(100)).status == 200
        approval_id = await shop.waits_for(500)
        await shop.answer(approval_id)
        assert (await shop.pay(500, approval(approval_id))).status == 200
        assert (await shop.pay(500, approval(approval_id))).status == 403
        over = await shop.pay(100, query=b"a=1"), await shop.pay(100, query=b"a=2")
        assert [reply.status for reply in over] == [200, 403]
        assert problem(over[1])["guard"] == "BudgetGuard"


@with_and_without
@pytest.mark.parametrize("described", [False, True], ids=["no document", "a document"])
async def test_inside_a_mount_with_parameters_a_budget_is_never_one_for_each_path(
    tmp_path: Path, middleware: bool, described: bool
) -> None:
    """Nobody inside can tell the template; unless the sidecar can, a caller would only have to change the path."""
    document = tmp_path / "openapi.json"
    paths = {"/shops/{shop}/pay/{account}": {"post": {"responses": {}}}}
    document.write_text(json.dumps({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths}))

    demands = [RequireCapability("pay", "out"), Budget(max_invocations=1)]
    async with opened(tmp_path, demands, middleware, options=f"?spec={document}" if described else "") as shop:
        inner, shop.app = shop.app, FastAPI()
        shop.app.mount("/shops/{shop}", inner)
        replies = [await shop.pay(1, path=f"/shops/{place}/pay/{place}") for place in ("a", "b")]
        if described:
            assert ([reply.status for reply in replies], shop.ran) == ([200, 403], 1)
            assert problem(replies[1])["guard"] == "BudgetGuard"
        else:
            assert ([reply.status for reply in replies], shop.ran) == ([502, 502], 0)
            assert {problem(reply)["error"] for reply in replies} == {"chio_policy_not_enforced"}
