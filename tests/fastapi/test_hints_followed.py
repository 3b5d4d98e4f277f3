"""What a refusal says about the way in: whoever follows it gets in, also where a route asks for more than `invoke`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.cli import main

STORE = "chio.sqlite3"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.chdir(tmp_path)
    app = FastAPI()
    app.add_api_route(
        "/accounts", lambda: "read", dependencies=[Depends(RequireCapability("bank", "accounts", operations=("read",)))]
    )
    add_chio(app, sidecar_url=f"embedded:{STORE}")
    return TestClient(app)


def _issued(command: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert main(shlex.split(command)[1:]) == 0
    return {"X-Chio-Capability": capsys.readouterr().out.strip()}


def _explained(body: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / "refused.json").write_text(json.dumps(body))
    main(["--json", "explain", str(folder / "refused.json"), "--receipt-store", STORE])
    return str(json.loads(capsys.readouterr().out)["command"])


def test_the_commands_of_a_401_and_of_its_explanation_open_the_route(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with client:
        refused = client.get("/accounts").json()
        assert refused["details"]["required_scope"] == "bank/accounts:invoke,read"
        for command in (refused["details"]["hint"], _explained(refused, tmp_path, capsys)):
            assert client.get("/accounts", headers=_issued(command, capsys)).status_code == 200


def test_the_command_that_explains_a_403_opens_the_route(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with client:
        client.get("/accounts")
        issue = f"chio-sidecar capability issue --embedded {STORE} --server bank --tool accounts"
        refused = client.get("/accounts", headers=_issued(issue, capsys))
        assert (refused.status_code, refused.json()["error"]) == (403, "chio_access_denied")
        command = _explained(refused.json(), tmp_path, capsys)
        assert client.get("/accounts", headers=_issued(command, capsys)).status_code == 200
