"""Mistakes that show when they are made, and requests that are refused before anybody is asked."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import httpx
import pytest
from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from chio_core.errors import ConfigurationError
from chio_core.settings import ChioSettings
from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.app import create_app
from chio_sidecar.config import SidecarConfig
from tests.sidecar.control_tools import evaluation, run_command


def test_a_requirement_without_its_parentheses_is_refused_when_the_route_is_defined() -> None:
    app = FastAPI()
    with pytest.raises(ConfigurationError, match="parentheses"):
        app.get("/pay", dependencies=[Depends(RequireCapability)])(lambda: None)


@pytest.mark.parametrize("name", ["Set-Cookie", "content-length", "Authorization", "cookie"])
@pytest.mark.parametrize("option", ["receipt_header", "capability_header"])
def test_a_standard_header_cannot_carry_a_receipt_or_a_capability(option: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match=option):
        ChioSettings(**{option: name})


async def test_a_web_page_cannot_ask_the_sidecar_for_an_evaluation(tmp_path: Path) -> None:
    sidecar = create_app(SidecarConfig(store_path=tmp_path / "receipts.sqlite3"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(sidecar), base_url="http://sidecar") as client:
        answer = await client.post("/chio/evaluate", json=evaluation(), headers={"Origin": "http://evil.example"})
    await sidecar.state.close()
    assert answer.status_code == 403


def test_a_forged_receipt_id_cannot_add_a_line_to_the_report(tmp_path: Path) -> None:
    forged = {"id": "01GOOD valid\n01ALSO valid\x1b[8m", "verdict": {"verdict": "allow"}}
    path = tmp_path / "forged.ndjson"
    path.write_text(json.dumps(forged) + "\n")
    told = run_command("receipt", "verify", path)
    assert told.returncode == 1
    assert "\x1b" not in told.stdout
    assert not any(line.endswith(" valid") for line in told.stdout.splitlines())


# Middleware that was added before `add_chio` is inside of it, and a warning says so


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_middleware_that_was_added_first_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_middleware(GZipMiddleware)
    app.add_middleware(CORSMiddleware)
    add_chio(app, sidecar_url="embedded:r.sqlite3")
    app.build_middleware_stack()
    (said,) = (text for text in warnings(caplog) if "add_chio" in text)
    assert "CORSMiddleware, GZipMiddleware, added before add_chio, will be inside Chio" in said


def test_middleware_that_was_added_afterwards_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    add_chio(app, sidecar_url="embedded:r.sqlite3")
    app.add_middleware(GZipMiddleware)
    assert not [text for text in warnings(caplog) if "add_chio" in text]
