"""A sidecar with `evaluate_token` evaluates and verifies for its bearers only."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.client.client import ChioClient
from chio_core.errors import ConfigurationError, EvaluationFailed
from chio_core.settings import ChioSettings
from chio_sidecar.app import SidecarApp
from chio_sidecar.config import evaluate_token_from
from chio_sidecar.doctor.sidecar import check_sidecar
from chio_sidecar.embedded import open_embedded
from chio_sidecar.store.driver import sqlite3
from tests.carrier.test_clients import question
from tests.sidecar.control_tools import fetch
from tests.sidecar.sidecar_tools import KERNEL, decision, evaluate_body, send, sidecar

CANARY = "canary-5be1d2"
BEARER = [("Authorization", f"Bearer {CANARY}")]


def stored(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "receipts.sqlite3")) as store:
        (count,) = store.execute("SELECT count(*) FROM http_receipts").fetchone()
    return int(count)


@pytest.mark.parametrize(
    "headers",
    [[], *([("Authorization", value)] for value in ("", "Bearer", "Bearer x", f"Basic {CANARY}", CANARY)), BEARER * 2],
    ids=["none", "empty", "scheme", "wrong", "basic", "bare", "two"],
)
async def test_without_the_token_nothing_is_evaluated_verified_or_stored(
    headers: list[tuple[str, str]], tmp_path: Path
) -> None:
    async with sidecar(tmp_path, evaluate_token=SecretStr(CANARY), max_per_second=1) as app:
        paths = ("/chio/evaluate", "/chio/evaluate", "/chio/verify")
        refused = [await send(app, "POST", path, b"{}", headers=headers) for path in paths]
        assert {(one.status, one.document["error"]) for one in refused} == {(401, "chio_evaluate_unauthorized")}
        assert {one.headers["www-authenticate"] for one in refused} == {"Bearer"}
        assert "CHIO_EVALUATE_TOKEN" in refused[0].document["message"]
        assert CANARY not in refused[0].body.decode()
        # Strangers have used none of the rate, which is one.
        body = json.dumps(evaluate_body()).encode()
        assert (await send(app, "POST", "/chio/evaluate", body, headers=BEARER)).status == 200
    assert stored(tmp_path) == 1


async def test_health_needs_no_token_because_probes_have_none(tmp_path: Path) -> None:
    async with sidecar(tmp_path, evaluate_token=SecretStr(CANARY)) as app:
        assert [(await send(app, "GET", path)).status for path in ("/chio/live", "/chio/health")] == [200, 200]


async def test_the_scheme_is_read_in_any_case(tmp_path: Path) -> None:
    async with sidecar(tmp_path, evaluate_token=SecretStr(CANARY)) as app:
        body = json.dumps(evaluate_body()).encode()
        answer = await send(app, "POST", "/chio/evaluate", body, headers=[("authorization", f"bearer {CANARY}")])
    assert answer.status == 200


@pytest.mark.parametrize(("token", "allowed"), [(CANARY, True), ("another", False), (None, False)])
async def test_a_client_presents_it_to_evaluate_and_verify(token: str | None, allowed: bool, tmp_path: Path) -> None:
    async with sidecar(tmp_path, evaluate_token=SecretStr(CANARY), clock=time.time) as app:
        settings = ChioSettings(evaluate_token=token, trusted_kernel_keys=(KERNEL.public_hex,), control_token="other")
        async with ChioClient(settings, transport=httpx.ASGITransport(app)) as client:
            found = await client.evaluate(question())
            assert found.allowed is allowed
            if allowed:
                assert found.receipt is not None
                assert await client.verify(found.receipt)
            else:
                with pytest.raises(EvaluationFailed):
                    await client.verify({})


async def test_an_embedded_sidecar_requires_none(tmp_path: Path) -> None:
    opened = open_embedded(str(tmp_path / "r.sqlite3"), environ={"CHIO_SIDECAR_EVALUATE_TOKEN": CANARY})
    assert (await decision(opened.app))["verdict"]["verdict"] == "allow"
    await opened.close()


@pytest.mark.parametrize("value", ["", "  ", "two words", "tökén", "a\nb"])
def test_a_token_that_could_not_be_presented_is_refused_at_start(value: str) -> None:
    with pytest.raises(ConfigurationError, match="CHIO_SIDECAR_EVALUATE_TOKEN") as refused:
        evaluate_token_from({"CHIO_SIDECAR_EVALUATE_TOKEN": value})
    assert not value.strip() or value not in refused.value.message
    for name in ("evaluate_token", "control_token", "trust_token"):
        with pytest.raises(ConfigurationError, match=f"CHIO_{name.upper()}") as refused:
            ChioSettings(**{name: value})
        assert not value.strip() or value not in refused.value.message


def test_spaces_around_a_token_do_not_count() -> None:
    assert evaluate_token_from({}) is None
    found = evaluate_token_from({"CHIO_SIDECAR_EVALUATE_TOKEN": f" {CANARY}\n"})
    assert found is not None
    assert found.get_secret_value() == CANARY
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    ("required", "presented", "status", "word"),
    [
        (CANARY, CANARY, "ok", "accepts it"),
        (CANARY, None, "fail", "none is set"),
        (CANARY, "other", "fail", "another one"),
        (None, "other", "warn", "without it too"),
        (None, None, None, ""),
    ],
)
def test_the_doctor_compares_the_token_with_what_the_sidecar_requires(
    required: str | None,
    presented: str | None,
    status: str | None,
    word: str,
    create: Callable[..., SidecarApp],
    tmp_path: Path,
) -> None:
    app = create(evaluate_token=None if required is None else SecretStr(required))
    found = {one.name: one for one in check_sidecar(ChioSettings(evaluate_token=presented), transport=_Blocking(app))}
    check: Any = found.get("evaluate_token")
    assert (None if check is None else check.status) == status
    assert check is None or word in check.text
    assert CANARY not in str(found)
    assert stored(tmp_path) == 0


class _Blocking(httpx.BaseTransport):
    """Calls the sidecar's application for a synchronous client."""

    def __init__(self, app: SidecarApp) -> None:
        self._app = app

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        headers, body = dict(request.headers), request.read()
        found = fetch(self._app, request.method, request.url.path, content=body, headers=headers)
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)
