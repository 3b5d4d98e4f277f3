"""The hint of a refusal works: a caller who follows it is allowed, also if a route requires more than `invoke`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from chio_core.evaluation.outcomes import FILL_IN, FILL_IN_EMBEDDED
from chio_fastapi import RequireCapability, add_chio
from chio_sidecar.cli import main
from tests.sidecar.control_tools import serving

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
        issue = f"chio-sidecar capability issue --receipt-store {STORE} --server bank --tool accounts"
        refused = client.get("/accounts", headers=_issued(issue, capsys))
        assert (refused.status_code, refused.json()["error"]) == (403, "chio_access_denied")
        command = _explained(refused.json(), tmp_path, capsys)
        assert client.get("/accounts", headers=_issued(command, capsys)).status_code == 200


SERVICE_TOKEN = "not-a-secret-of-anybody"
PLACES = ["store", "store and key file", "store and trust service"]


@pytest.fixture(params=PLACES)
def elsewhere(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[str]]]:
    """The address of a separate sidecar, and the options that replace the placeholder of a hint."""
    for variable in ("CHIO_TRUSTED_ISSUER_KEY", "CHIO_TRUSTED_ISSUER_KEYS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CHIO_SERVICE_TOKEN", SERVICE_TOKEN)
    store, seed = f"{tmp_path}/sidecar.sqlite3", f"{tmp_path}/seed"
    protect = ["api", "protect", "--upstream", "http://127.0.0.1:1", "--spec", str(tmp_path / "spec.json")]
    protect += ["--listen", "127.0.0.1:0", "--receipt-store", store]
    (tmp_path / "spec.json").write_text('{"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}')
    if request.param == "store":
        with serving(*protect) as sidecar:
            yield sidecar.url, [f"--receipt-store {store}"]
    elif request.param == "store and key file":
        with serving(*protect, "--authority-seed-file", seed) as sidecar:
            yield sidecar.url, [f"--authority-seed-file {seed}"]
    else:
        trust = ["trust", "serve", "--listen", "127.0.0.1:0", "--revocation-db", f"{tmp_path}/revoked.sqlite3"]
        trust += ["--authority-db", f"{tmp_path}/authority.sqlite3"]
        with serving(*trust, CHIO_SERVICE_TOKEN=SERVICE_TOKEN) as service:
            asked = ["--control-url", service.url, *protect]
            with serving(*asked, CHIO_SERVICE_TOKEN=SERVICE_TOKEN) as sidecar:
                yield sidecar.url, [f"--receipt-store {store}", f"--control-url {service.url}"]


def test_each_way_that_a_refusal_names_for_a_separate_sidecar_opens_the_route(
    elsewhere: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, stands_for = elsewhere
    monkeypatch.chdir(tmp_path)
    app = FastAPI()
    app.add_api_route(
        "/accounts", lambda: "new", methods=["POST"], dependencies=[Depends(RequireCapability("bank", "open"))]
    )
    app.add_api_route("/plain", lambda: "done", methods=["POST"])
    add_chio(app, sidecar_url=url)
    with TestClient(app) as client:
        for path, status in (("/accounts", 401), ("/plain", 403)):
            refused = client.post(path)
            details = refused.json()["details"]
            assert (refused.status_code, details["hint_note"]) == (status, FILL_IN)
            main(["--json", "explain", _file(tmp_path, refused.json())])
            explained = json.loads(capsys.readouterr().out)
            assert (explained["command"], explained["note"]) == (details["hint"], FILL_IN)
            for option in stands_for:
                command = details["hint"].replace("--receipt-store FILE", option)
                assert client.post(path, headers=_issued(command, capsys)).status_code == 200, option


@pytest.mark.parametrize("folder", ["", "state/"])
def test_the_hint_of_a_403_for_a_write_opens_it_as_that_of_a_401_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state").mkdir()
    app = FastAPI()
    app.add_api_route("/plain", lambda: "done", methods=["POST"])
    add_chio(app, sidecar_url=f"embedded:{folder}{STORE}")
    with TestClient(app) as client:
        refused = client.post("/plain")
        details = refused.json()["details"]
        assert (refused.status_code, refused.json()["error"]) == (403, "chio_access_denied")
        assert details.get("hint_note") == (FILL_IN_EMBEDDED if folder else None)
        command = details["hint"].replace("FILE", f"{folder}{STORE}")
        assert client.post("/plain", headers=_issued(command, capsys)).status_code == 200
        # With a capability that does not count, the way is not the same for everybody: `explain` tells it.
        assert "hint" not in client.post("/plain", headers={"X-Chio-Capability": "{}"}).json().get("details", {})


def _file(folder: Path, document: Any) -> str:
    (folder / "refused.json").write_text(json.dumps(document))
    return str(folder / "refused.json")
