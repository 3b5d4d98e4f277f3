"""Secrets stay out: canary values in every place of a request turn up in no log, answer, decision, error or store."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from fastapi import Depends, FastAPI, Request

from chio_asgi import ChioASGIConfig
from chio_core.capabilities import issue_capability
from chio_core.client.client import ChioClient
from chio_core.errors import SidecarError
from chio_core.evaluation.conclude import conclude
from chio_core.evaluation.exchange import RawResponse
from chio_core.evaluation.outcomes import Decision
from chio_core.receipts import KeyTrust
from chio_core.signing import SigningKey
from chio_core.testing import Behaviour, EvaluateRequest, Reply, ScriptedSidecar
from chio_core.testing.exchange import compact
from chio_fastapi import RequireCapability, add_chio
from tests.conformance.drivers import DRIVERS
from tests.conformance.outcomes import answered
from tests.core.views import NOW, SETTINGS, View, asked, question
from tests.faces.faces import Observation
from tests.hostile import BEHAVIOURS
from tests.support import Reply as Answered
from tests.support import call, run

MARK = "canary"
ISSUER = SigningKey(b"i" * 32)
TOKEN = issue_capability(
    ISSUER,
    subject=ISSUER.public_hex,
    scope={"grants": [{"server_id": "payments", "tool_name": "transfer", "operations": ["invoke"]}]},
    ttl_seconds=3600,
)
GOOD_TOKEN = json.dumps({**TOKEN.to_wire(), "note": f"{MARK}-token"}, separators=(",", ":"))
BODY = f'{{"password":"{MARK}-body"}}'.encode()
QUERY = f"secret={MARK}-query&chio_capability={MARK}-token-in-query".encode()

USUAL = (
    ("authorization", f"Bearer {MARK}-bearer"),
    ("x-api-key", f"{MARK}-key"),
    ("cookie", f"session={MARK}-session; other={MARK}-cookie"),
    ("x-anything", f"{MARK}-header"),
    ("x-chio-capability", GOOD_TOKEN),
)
FEW = (("cookie", f"session={MARK}-session"), ("x-chio-capability", f"{MARK}-no-token"))
TWICE = (*USUAL, ("authorization", f"Bearer {MARK}-second"))
UNREADABLE = (("x-chio-capability", f"{MARK}-\x01"),)
SHAPES = (USUAL, FEW, TWICE, UNREADABLE)


def echo(name: str, reply: Any) -> Behaviour:
    return Behaviour(name, "Repeats the question where it should not.", reply)


def _everything(one: EvaluateRequest) -> dict[str, Any]:
    return {"error": one.capability_text, "message": str(one.headers), "question": one.body.decode("latin-1")}


ECHOES = (
    echo("echo_400", lambda one: Reply(compact(_everything(one)), 400)),
    echo("echo_500_text", lambda one: Reply(one.body, 500, (("content-type", f"text/{MARK}"),))),
    echo("echo_200", lambda one: Reply(compact(_everything(one)))),
    echo("echo_broken_json", lambda one: Reply(compact(_everything(one))[:-9])),
    echo(
        "echo_as_wrong_types",
        lambda one: Reply(compact({**one.response(), "verdict": {"verdict": [str(one.headers)]}})),
    ),
    echo(
        "echo_in_receipt",
        lambda one: Reply(compact(one.response(receipt={**one.receipt(), "timestamp": str(one.headers)}))),
    ),
)
ALL = (*BEHAVIOURS.values(), *ECHOES)


def leaks(*texts: object) -> list[str]:
    """The texts that hold a canary or the signature of the token."""
    found = [text if isinstance(text, str) else repr(text) for text in texts]
    return [text for text in found if MARK in text or TOKEN.signature in text]


def written(found: Observation) -> list[object]:
    """What Chio wrote: the refusal, the headers, and what it gave the handler; not what the handler answered."""
    seen = [(one.receipt, one.passthrough, one.decision) for one in found.seen]
    return [found.lines, seen, "" if found.seen else found.body.decode()]


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_no_behaviour_brings_a_secret_into_a_log_a_response_or_a_decision(
    driver: Any, everything_logged: pytest.LogCaptureFixture
) -> None:
    behaviours = [one for one in ALL if not one.slow and not one.refuses]
    with ScriptedSidecar().serving_in_thread() as sidecar, answered(driver, sidecar) as send:
        for number, behaviour in enumerate(behaviours):
            found = send(behaviour, driver.request(SHAPES[number % len(SHAPES)], BODY, query="?" + QUERY.decode()))
            assert leaks(*written(found)) == [], behaviour.name
            assert leaks(everything_logged.text) == [], behaviour.name
            everything_logged.clear()
        for asked_ in sidecar.asked:
            headers = {name: value for name, value in asked_.headers.items() if name != "x-chio-capability"}
            body = {**asked_.document, "query": None}  # the query is part of the question; its token is not
            assert leaks(str(headers), str(body)) == []
            assert set(asked_.document.get("query", {})) <= {"secret"}


@pytest.mark.parametrize("behaviour", [one for one in ALL if one.slow or one.refuses], ids=str)
def test_nor_does_a_sidecar_that_is_slow_or_away(
    behaviour: Behaviour, everything_logged: pytest.LogCaptureFixture
) -> None:
    with ScriptedSidecar(behaviour).serving_in_thread() as sidecar:
        options = {"sidecar_url": sidecar.url, "trusted_kernel_keys": [sidecar.public_key], "timeout": 0.05}
        for fail_open in (False, True):
            driver = DRIVERS["fastapi"]
            wire = driver.request(USUAL, BODY, query="?" + QUERY.decode())
            assert leaks(*written(driver.run({**options, "fail_open": fail_open}, wire))) == []
    assert leaks(everything_logged.text) == []


def test_no_error_shows_a_secret() -> None:
    errors: list[SidecarError] = []
    for behaviour in ALL:
        one = question(View(query=QUERY.decode(), headers=USUAL), body_hash="ab" * 32, body_length=len(BODY))
        reply = behaviour.reply(asked(one))
        answer = RawResponse(reply.status, dict(reply.headers).get("content-type", ""), reply.body)
        try:
            decision = conclude(answer, one, SETTINGS, KeyTrust([SETTINGS.trusted_kernel_keys[0]]), NOW)
        except SidecarError as exc:
            errors.append(exc)
        else:
            assert leaks(repr(decision), str(decision)) == [], behaviour.name
    assert len(errors) > 80
    for error in errors:
        assert leaks(str(error), repr(error), *traceback.format_exception(error)) == []


@pytest.mark.slow  # 1,000 requests, 50,000 at full size
def test_a_thousand_requests_leave_no_secret_behind(
    full_size: bool, everything_logged: pytest.LogCaptureFixture
) -> None:
    count = 50_000 if full_size else 1_000
    usable = [one for one in ALL if not one.slow and not one.refuses and "huge" not in one.name]
    sidecar = ScriptedSidecar(lambda one: usable[len(sidecar.asked) % len(usable)])
    decisions: list[Decision] = []

    async def main() -> list[Answered]:
        async with sidecar.serving(), ChioClient(sidecar.settings()) as client:
            app = _application(client, decisions)
            paths = ("/transfers/7", "/open", "/nowhere", "/fails")
            return [
                await call(
                    app,
                    "POST",
                    paths[number % len(paths)],
                    query=QUERY,
                    body=BODY,
                    headers=SHAPES[number // len(paths) % len(SHAPES)],
                )
                for number in range(count)
            ]

    for reply in run(main()):
        assert leaks(reply.body.decode(), str(reply.headers)) == []
    assert len(decisions) == count
    assert leaks(*decisions) == []
    assert leaks(everything_logged.text) == []


async def test_the_store_of_an_embedded_sidecar_holds_no_secret(
    tmp_path: Path, everything_logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEY", ISSUER.public_hex)
    store = tmp_path / "receipts.sqlite3"
    decisions: list[Decision] = []
    async with ChioClient(ChioASGIConfig(sidecar_url=f"embedded:{store}", capability_in_query=True)) as client:
        app = _application(client, decisions)
        replies = [
            await call(app, method, path, query=query, body=BODY, headers=headers)
            for headers in (*SHAPES, ())
            for path in ("/transfers/7", "/open")
            for method in ("GET", "POST")
            for query in (b"", QUERY, f"chio_capability={quote(GOOD_TOKEN)}".encode())
        ]
    assert {reply.status for reply in replies} >= {200, 400, 401, 403, 405}
    for reply in replies:
        assert leaks(reply.body.decode(), str(reply.headers)) == []
    assert leaks(*decisions) == []
    assert leaks(everything_logged.text) == []
    files = [file.read_bytes() for file in tmp_path.iterdir()]
    assert any(b"req" in data for data in files)
    for data in files:
        assert MARK.encode() not in data
        assert TOKEN.signature.encode() not in data


def _application(client: ChioClient, decisions: list[Decision]) -> FastAPI:
    app = FastAPI()

    @app.post("/transfers/{transfer_id}")
    async def transfer(
        transfer_id: int, receipt: Annotated[Any, Depends(RequireCapability("payments", "transfer"))]
    ) -> dict[str, str]:
        return {"receipt": receipt.id}

    @app.api_route("/open", methods=["GET", "POST"])
    async def anyone(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/fails")
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("the application failed")

    @app.exception_handler(ValueError)
    async def answer(request: Request, exc: ValueError) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse({"error": "failed"}, 500)

    add_chio(app, client=client, on_decision=decisions.append)
    return app
