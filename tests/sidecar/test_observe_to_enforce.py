"""From observe to enforce: the report is one screen, and its lines let the same traffic pass."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from chio_sidecar.cli.receipt_diff import WOULD_REFUSE
from tests.sidecar.control_tools import CommandLine, write_store
from tests.sidecar.test_cli_receipt_diff import deny, receipt
from tests.support import call

APPLICATION = """
from fastapi import Depends, FastAPI, Request

from chio_fastapi import Policy, RequireCapability, add_chio

app = FastAPI()
add_chio(app, sidecar_url=f"embedded:{store}", observe=observe)

@app.get("/pets")
async def pets() -> None: ...

@app.post("/login")
async def login() -> None: ...

@app.delete("/pets/{pet_id}/picture")
async def remove(pet_id: int) -> None: ...

@app.post("/transfers", dependencies=[Depends(RequireCapability("payments", "transfer"))])
async def transfer() -> None: ...

@app.put("/pictures")
async def upload(request: Request) -> int:
    return len(await request.body())
"""


def started(source: str, store: Path, *, observe: bool) -> Any:
    names: dict[str, Any] = {"store": store, "observe": observe}
    exec(compile(source, "main.py", "exec"), names)  # the text is the one above, with lines of the report in it
    return names["app"]


async def statuses(app: Any, callers: int, token: str | None = None) -> set[int]:
    """Send the traffic of many callers, and return the statuses that they got."""
    capability = [] if token is None else [("x-chio-capability", token)]
    found: set[int] = set()
    for first in range(0, callers, 50):
        sent = []
        for number in range(first, min(first + 50, callers)):
            who = [("authorization", f"Bearer user-{number}")]
            sent += [
                call(app, "GET", "/pets", headers=who),
                call(app, "POST", "/login", headers=who),
                call(app, "DELETE", f"/pets/{number}/picture", headers=who),
                call(app, "POST", "/transfers", headers=[*who, *capability]),
            ]
        found |= {reply.status for reply in await asyncio.gather(*sent)}
    large = await call(app, "PUT", "/pictures", body=b"x" * 12_000_000)
    assert large.body in (b"12000000", b"") or large.status != 200
    return found | {large.status}


def test_the_lines_of_the_report_let_the_same_traffic_pass_when_it_is_enforced(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch, full_size: bool
) -> None:
    store, callers = tmp_path / "chio.sqlite3", 2_500 if full_size else 150
    assert asyncio.run(statuses(started(APPLICATION, store, observe=True), callers)) == {200}
    report = json.loads(cli("receipt", "diff", "--receipt-store", store, "--json", status=WOULD_REFUSE))
    assert [(group["route_pattern"], group["count"], group["callers"]) for group in report["groups"]] == [
        ("/login", callers, callers),
        ("/pets/{pet_id}/picture", callers, callers),
        ("/transfers", callers, callers),
        ("/pictures", 1, 1),
    ]

    # Write the first line of each group where it belongs; a group with two faults has the next line in the next report.
    source, token = APPLICATION, None
    while report["groups"]:
        for line in (group["remedies"][0]["line"] for group in report["groups"]):
            if line.startswith("@app."):
                (old,) = (one for one in source.splitlines() if one.startswith(line.partition(",")[0]))
                source = source.replace(old, line)
            elif line.startswith("CHIO_"):
                monkeypatch.setenv(*line.split("="))
            else:
                token = cli(*shlex.split(line)[1:]).strip()
        again = tmp_path / f"again-{len(list(tmp_path.iterdir()))}.sqlite3"
        (again.parent / f"{again.name}.key").write_bytes((tmp_path / "chio.sqlite3.key").read_bytes())
        (again.parent / f"{again.name}.key").chmod(0o600)
        assert asyncio.run(statuses(started(source, again, observe=True), 2, token)) == {200}
        report = json.loads(cli("receipt", "diff", "--receipt-store", again, "--json", status=None))
    assert asyncio.run(statuses(started(source, store, observe=False), callers, token)) == {200}
    assert asyncio.run(statuses(started(APPLICATION, store, observe=False), 1)) == {200, 401, 403}


def test_ten_thousand_receipts_of_a_thousand_callers_are_one_screen(tmp_path: Path, cli: CommandLine) -> None:
    routes = ["/login", "/transfers", "/pets/{pet_id}"]
    receipts = (
        receipt(
            number,
            deny("side-effect route requires a capability token"),
            method="POST",
            route_pattern=routes[number % 3],
            caller_identity_hash=f"{number % 1000:064d}",
        )
        for number in range(10_000)
    )
    store = write_store(tmp_path / "chio.sqlite3", receipts)
    out = cli("receipt", "diff", "--receipt-store", store, status=WOULD_REFUSE)
    assert out.startswith("would have refused 10,000 of 10,000 observed requests\n")
    assert out.count("1,000 callers") == 3
    assert len(out.splitlines()) <= 24
