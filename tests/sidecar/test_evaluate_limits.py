"""Grants that may be used a limited number of times: counted durably, once for each request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from chio_sidecar.app import SidecarApp
from tests.sidecar.sidecar_tools import SERVER, TOOL, capability, decision, evaluate, grant, sidecar

LIMITED = {"tool_server": SERVER, "tool_name": TOOL}
EXHAUSTED = f"capability has no invocation left of the 2 granted for tool {TOOL} on server {SERVER}"


def limited(limit: int, name: str = "cap-1") -> Any:
    return capability(grants=[grant(tool="another"), grant(max_invocations=limit)], name=name)


async def test_a_grant_can_be_used_as_often_as_it_says(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        reasons = [
            (await decision(app, limited(2), **LIMITED, request_id=f"req-{number}"))["verdict"].get("reason")
            for number in range(4)
        ]
        assert reasons == [None, None, EXHAUSTED, EXHAUSTED]
    async with sidecar(tmp_path) as app:
        answer = await decision(app, limited(2), **LIMITED, request_id="after a restart")
        assert answer["verdict"]["reason"] == EXHAUSTED
        other = await decision(app, limited(2, "cap-2"), **LIMITED, request_id="another token")
        assert other["verdict"] == {"verdict": "allow"}


async def test_a_limit_of_zero_allows_nothing_and_no_tool_fields_spend_nothing(app: SidecarApp) -> None:
    assert (await decision(app, limited(0), **LIMITED))["verdict"]["verdict"] == "deny"
    for number in range(3):
        answer = await decision(app, limited(1), method="POST", request_id=f"plain-{number}")
        assert answer["verdict"] == {"verdict": "allow"}


async def test_a_retry_does_not_spend_twice(app: SidecarApp) -> None:
    first = await evaluate(app, limited(2), **LIMITED)
    assert (await evaluate(app, limited(2), **LIMITED)).body == first.body
    assert (await decision(app, limited(2), **LIMITED, request_id="req-2"))["verdict"] == {"verdict": "allow"}
    # The first request is still the same, although nothing is left now.
    assert (await evaluate(app, limited(2), **LIMITED)).body == first.body


async def test_of_many_at_once_only_as_many_as_granted_are_allowed(app: SidecarApp) -> None:
    answers = await asyncio.gather(
        *(decision(app, limited(7), **LIMITED, request_id=f"req-{number}") for number in range(100))
    )
    allowed = [answer for answer in answers if answer["verdict"]["verdict"] == "allow"]
    assert len(allowed) == 7
