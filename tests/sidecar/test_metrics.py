"""`GET /metrics` of the sidecar: what is counted, who may read it, and that it reveals no request."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.core import Metric
from pydantic import SecretStr

from chio_sidecar.app import SidecarApp
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store import ReceiptStore, StoreBusy
from tests.core.exposition import parse, value
from tests.sidecar.sidecar_tools import capability, evaluate, evaluate_body, send, sidecar

TOKEN = "control-token-of-a-test"


async def page_of(app: SidecarApp, **options: Any) -> dict[str, Metric]:
    answer = await send(app, "GET", "/metrics", **options)
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.body.decode())


async def test_decisions_are_counted_by_verdict_and_guard(app: SidecarApp) -> None:
    for number in range(3):
        await evaluate(app, request_id=f"get-{number}")
    await evaluate(app, request_id="get-0")
    await evaluate(app, request_id="post", method="POST")
    await evaluate(app, capability(), request_id="with-token", method="POST")
    page = await page_of(app)
    assert value(page, "chio_sidecar_decisions_total", verdict="allow", guard="none") == 5
    assert value(page, "chio_sidecar_decisions_total", verdict="deny", guard="CapabilityGuard") == 1
    assert value(page, "chio_sidecar_repeats_total") == 1
    assert value(page, "chio_sidecar_evaluate_seconds_count") == 6
    assert value(page, "chio_sidecar_evaluations_pending") == 0
    assert value(page, "chio_sidecar_commit_size_sum") == 6
    assert value(page, "chio_sidecar_commit_waiting") == 0


async def test_evaluations_without_a_decision_are_counted_by_code(app: SidecarApp) -> None:
    await evaluate(app)
    await evaluate(app, path="/other")
    await send(app, "POST", "/chio/evaluate", b"{")
    await send(app, "POST", "/chio/evaluate", b"", complete=False)
    await send(app, "POST", "/chio/evaluate", b"{}", headers=[("origin", "https://page.test")])
    page = await page_of(app)
    assert value(page, "chio_sidecar_errors_total", code="chio_request_id_conflict") == 1
    assert value(page, "chio_sidecar_errors_total", code="chio_bad_request") == 2
    assert value(page, "chio_sidecar_errors_total", code="chio_control_forbidden") == 1
    assert value(page, "chio_sidecar_evaluate_seconds_count") == 5


async def test_a_store_that_cannot_be_opened_or_that_fails_shows_on_the_page(tmp_path: Path) -> None:
    class Failing:
        async def append(self, entry: Any) -> Any:
            raise StoreBusy("too many receipts wait to be stored; try again later")

        async def close(self) -> None:
            pass

    def failing(config: SidecarConfig) -> ReceiptStore:
        return Failing()  # type: ignore[return-value]

    async with sidecar(tmp_path, open_store=failing) as app:
        assert (await evaluate(app)).status == 503
        page = await page_of(app)
        assert value(page, "chio_sidecar_errors_total", code="chio_overloaded") == 1
        assert "chio_sidecar_commit_size" not in page
    async with sidecar(tmp_path, store_path=tmp_path / "nowhere" / "receipts.sqlite3") as app:
        page = await page_of(app)
        assert "chio_sidecar_commit_size" not in page


async def test_what_is_under_way_is_seen_while_it_is(app: SidecarApp) -> None:
    waiting = asyncio.Event()
    hold = asyncio.Event()

    async def receive() -> Any:
        waiting.set()
        await hold.wait()
        return {"type": "http.request", "body": json.dumps(evaluate_body()).encode()}

    async def ignore(message: Any) -> None:
        pass

    scope = {"type": "http", "method": "POST", "path": "/chio/evaluate", "headers": [], "query_string": b""}
    task = asyncio.ensure_future(app(scope, receive, ignore))
    await waiting.wait()
    assert value(await page_of(app), "chio_sidecar_evaluations_pending") == 1
    hold.set()
    await task
    assert value(await page_of(app), "chio_sidecar_evaluations_pending") == 0


async def test_work_that_arrives_together_shares_a_commit_and_none_is_lost(app: SidecarApp) -> None:
    await asyncio.gather(*(evaluate(app, request_id=f"req-{number}") for number in range(100)))
    page = await page_of(app)
    assert value(page, "chio_sidecar_commit_size_sum") == 100
    assert 1 <= value(page, "chio_sidecar_commit_size_count") < 100
    assert value(page, "chio_sidecar_commit_failures_total") == 0


async def test_what_a_loop_submits_in_one_turn_is_one_commit(app: SidecarApp) -> None:
    await asyncio.gather(*(evaluate(app, request_id=f"req-{number}") for number in range(8)))
    page = await page_of(app)
    assert value(page, "chio_sidecar_commit_size_sum") == 8
    assert value(page, "chio_sidecar_commit_size_count") == 1


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, [], 200),
        (None, [("origin", "https://page.test")], 403),
        (None, [("x-forwarded-for", "10.0.0.1")], 403),
        (TOKEN, [], 403),
        (TOKEN, [("authorization", "Bearer wrong")], 403),
        (TOKEN, [("authorization", f"Bearer {TOKEN}")], 200),
    ],
)
async def test_the_page_is_for_this_machine_or_for_who_has_the_control_token(
    tmp_path: Path, token: str | None, headers: list[tuple[str, str]], status: int
) -> None:
    async with sidecar(tmp_path, control_token=SecretStr(token) if token else None) as app:
        answer = await send(app, "GET", "/metrics", headers=headers)
        assert answer.status == status
        assert (b"chio_sidecar" in answer.body) == (status == 200)
        assert (await send(app, "POST", "/metrics", headers=headers)).status == 405


async def test_nothing_that_a_client_sends_becomes_part_of_the_page(tmp_path: Path) -> None:
    mark = "canary"
    async with sidecar(tmp_path, control_token=SecretStr(f"{mark}-control")) as app:
        for number in range(200):
            changes = {
                "request_id": f"{mark}-{number}",
                "method": ("GET", "POST", f"{mark}")[number % 3],
                "path": f"/{mark}/{number}",
                "query": {mark: mark},
                "caller": {"subject": mark, "auth_method": {"method": "anonymous"}, "verified": False},
                "tool_server": mark if number % 2 else ...,
                "tool_name": mark if number % 2 else ...,
            }
            await evaluate(app, capability(name=mark) if number % 5 else mark, **changes)
        answer = await send(app, "GET", "/metrics", headers=[("authorization", f"Bearer {mark}-control")])
        assert mark not in answer.body.decode()
        decisions = parse(answer.body.decode())["chio_sidecar_decisions_total"]
        assert sum(sample.value for sample in decisions.samples) > 100


async def test_the_page_names_what_is_running(app: SidecarApp) -> None:
    health = (await send(app, "GET", "/chio/health")).document
    assert value(await page_of(app), "chio_sidecar_build_info", version=health["version"]) == 1
