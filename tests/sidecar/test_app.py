"""Health, unknown paths, wrong methods, opening and closing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.app import NOT_FOUND, SidecarApp, create_app
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store import StoreHealth
from tests.sidecar.fsck_tools import select
from tests.sidecar.sidecar_tools import KERNEL, decision, evaluate_body, send, sidecar, vectors
from tests.support import run


async def test_health_reports_that_a_receipt_could_be_signed_and_stored(app: SidecarApp) -> None:
    answer = await send(app, "GET", "/chio/health")
    assert answer.status == 200
    document = answer.document
    assert document.pop("version")
    assert "SQLite" in document.pop("detail")
    assert document == {
        "status": "healthy",
        "receipt_backend": "durable",
        "revocation_backend": "durable",
        "kernel_key": KERNEL.public_hex,
    }
    assert await app.state.sidecar.store.list() == []


async def test_health_names_a_remote_revocation_authority(tmp_path: Path) -> None:
    async with sidecar(tmp_path, control_url="http://127.0.0.1:1", ephemeral=True) as app:
        document = (await send(app, "GET", "/chio/health")).document
        assert document["revocation_backend"] == "remote"
        assert document["receipt_backend"] == "ephemeral"
        assert document["detail"] == "receipts are kept for this run only, and are lost when the sidecar ends"


class SickStore:
    async def health(self) -> StoreHealth:
        return StoreHealth(writable=False, detail="the disk is full")

    async def close(self) -> None:
        """Nothing to do."""


class SickKey(SigningKey):
    def sign(self, message: bytes) -> str:
        return "0" * 128


@pytest.mark.parametrize("sick", ["store", "key", "configuration"])
async def test_health_is_503_when_nothing_could_be_signed_or_stored(sick: str, tmp_path: Path) -> None:
    choices: dict[str, dict[str, Any]] = {
        "store": {"open_store": lambda config: SickStore()},
        "key": {"signing_key": SickKey(b"\x21" * 32)},
        "configuration": {"store_path": tmp_path / "missing" / "receipts.sqlite3"},
    }
    options = choices[sick]
    async with sidecar(tmp_path, **options) as app:
        answer = await send(app, "GET", "/chio/health")
        assert answer.status == 503
        assert answer.document["status"] == "unhealthy"
        assert answer.document["detail"]
        assert (await send(app, "GET", "/chio/live")).status == 200


async def test_a_sidecar_that_cannot_open_answers_in_one_sentence_everywhere(tmp_path: Path) -> None:
    async with sidecar(tmp_path, store_path=tmp_path / "missing" / "r") as app:
        receipt = vectors("composed", "http-receipt", "v1.json")["april_cases"][0]["receipt"]
        for path, document in (("/chio/verify", receipt), ("/chio/evaluate", evaluate_body())):
            answer = await send(app, "POST", path, json.dumps(document).encode())
            assert answer.status == 500
            assert "its folder must exist and be writable" in answer.document["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("POST", "/echo"), ("GET", "/chio/evaluate/"), ("POST", "/chio"), ("PUT", "//")]
)
async def test_an_unknown_path_is_404_with_a_sentence(method: str, path: str, app: SidecarApp) -> None:
    answer = await send(app, method, path)
    assert answer.status == 404
    assert answer.document == {"error": "chio_not_found", "message": NOT_FOUND}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/chio/evaluate", {"POST"}),
        ("PUT", "/chio/verify", {"POST"}),
        ("POST", "/chio/health", {"GET", "HEAD"}),
        ("DELETE", "/chio/live", {"GET", "HEAD"}),
        ("GET", "/v1/capabilities/mint", {"POST"}),
    ],
)
async def test_a_wrong_method_is_405_with_allow_and_no_body(
    method: str, path: str, allow: set[str], app: SidecarApp
) -> None:
    answer = await send(app, method, path)
    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == allow
    assert answer.body == b""


def test_the_lifespan_opens_and_closes(tmp_path: Path) -> None:
    app = create_app(SidecarConfig(store_path=tmp_path / "r.sqlite3"))
    assert list(tmp_path.iterdir()) == []
    with TestClient(app) as client:
        assert {path.name for path in tmp_path.iterdir()} >= {"r.sqlite3", "r.sqlite3.key"}
        assert client.post("/chio/evaluate", json=evaluate_body()).status_code == 200
    assert {path.name for path in tmp_path.iterdir()} == {"r.sqlite3", "r.sqlite3.key"}
    assert TestClient(app, raise_server_exceptions=False).get("/chio/health").status_code == 503


def test_a_lifespan_that_cannot_open_fails_the_start(tmp_path: Path) -> None:
    app = create_app(SidecarConfig(store_path=tmp_path / "missing" / "r.sqlite3"))
    with pytest.raises(ConfigurationError, match="missing"), TestClient(app):
        pass


def test_it_works_mounted_under_a_prefix(tmp_path: Path) -> None:
    app = create_app(SidecarConfig(store_path=tmp_path / "r.sqlite3", signing_key=KERNEL))
    outer = Starlette(routes=[Mount("/inner", app)])
    with TestClient(outer) as client:
        assert client.post("/inner/chio/evaluate", json=evaluate_body()).status_code == 200
        assert client.get("/inner/chio/evaluate").status_code == 405
    run(app.state.close())


async def test_it_can_be_closed_twice_and_before_it_was_opened(tmp_path: Path) -> None:
    app = create_app(SidecarConfig(store_path=tmp_path / "r.sqlite3", signing_key=KERNEL))
    await app.state.close()
    await app.state.close()


async def test_closing_finishes_what_is_under_way(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        asked = [asyncio.create_task(decision(app, request_id=f"req-{number}")) for number in range(200)]
        await asyncio.sleep(0)
        await app.state.close()
        answers = await asyncio.gather(*asked)
        assert {answer["verdict"]["verdict"] for answer in answers} == {"allow"}
    async with sidecar(tmp_path) as app:
        assert len(await app.state.sidecar.store.list(limit=1000)) == 200


async def test_health_probes_of_any_caller_share_one_commit_for_a_moment(tmp_path: Path) -> None:
    for seconds, commits in ((3600.0, 1), (0.0, 20)):
        folder = tmp_path / str(commits)
        folder.mkdir()
        async with sidecar(folder, health_seconds=seconds) as app:
            answers = [await send(app, "GET", "/chio/health") for _ in range(20)]
            assert {(answer.status, answer.document["status"]) for answer in answers} == {(200, "healthy")}
        assert select(folder / "receipts.sqlite3", "SELECT probes FROM write_probe") == [(commits,)]
