"""`chio-sidecar doctor` on the command line."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chio_sidecar.cli import main
from chio_sidecar.keys import load_key
from tests.sidecar.control_tools import serving

Doctor = Callable[..., tuple[int, dict[str, dict[str, Any]], str]]

APPLICATION = """
from fastapi import FastAPI
from chio_fastapi import add_chio

app = FastAPI()
add_chio(app, sidecar_url="embedded:receipts.sqlite3", max_connections=7)
bare = FastAPI()
"""


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Run the command in a folder; return its status, the checks by name, and standard error."""

    def run(folder: Path, *arguments: object, **variables: str) -> tuple[int, dict[str, dict[str, Any]], str]:
        with monkeypatch.context() as patched:
            patched.chdir(folder)
            patched.setattr(sys, "path", list(sys.path))
            patched.delitem(sys.modules, "main", raising=False)
            for name, value in variables.items():
                patched.setenv(name, value)
            status = main(["doctor", *map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert "Traceback" not in err, err
        return status, {check["check"]: check for check in map(json.loads, out.splitlines())}, err

    return run


def failed(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, check in checks.items() if check["status"] == "fail"}


def test_an_embedded_sidecar_is_checked_and_nothing_is_made(doctor: Doctor, tmp_path: Path) -> None:
    status, checks, error = doctor(tmp_path, CHIO_SIDECAR_URL="embedded:receipts.sqlite3", CHIO_CONTROL_TOKEN="hunter2")
    assert (status, failed(checks)) == (0, set())
    assert checks["setting.sidecar_url"]["source"] == "environment"
    assert checks["setting.timeout"]["source"] == "default"
    assert "hunter2" not in json.dumps(checks) + error
    assert "checks:" in error
    assert list(tmp_path.iterdir()) == []


def test_an_application_has_its_own_settings(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APPLICATION)
    (tmp_path / ".env").write_text("CHIO_TIMEOUT=4\n")
    status, checks, _ = doctor(tmp_path, "main:app", CHIO_RECEIPT_TOLERANCE="30")
    assert (status, failed(checks)) == (0, set())
    sources = {name: checks[f"setting.{name}"]["source"] for name in ("sidecar_url", "max_connections", "timeout")}
    assert sources == {"sidecar_url": "keyword", "max_connections": "keyword", "timeout": ".env"}
    assert checks["setting.receipt_tolerance"]["source"] == "environment"
    assert any(name.startswith("application.") for name in checks)
    assert not (tmp_path / "receipts.sqlite3").exists()


@pytest.mark.parametrize("place", ["main:bare", "nowhere:app"])
def test_an_application_that_is_not_governed_or_not_there_fails(doctor: Doctor, tmp_path: Path, place: str) -> None:
    (tmp_path / "main.py").write_text(APPLICATION)
    status, checks, _ = doctor(tmp_path, place, CHIO_SIDECAR_URL="embedded:receipts.sqlite3")
    assert status == 1
    assert any(name.startswith("application") for name in failed(checks))


def test_a_setting_that_cannot_be_used_is_reported_and_the_rest_still_checked(doctor: Doctor, tmp_path: Path) -> None:
    status, checks, _ = doctor(tmp_path, CHIO_TIMEOUT="soon", CHIO_FAILOPEN="1")
    assert status == 1
    assert failed(checks) == {"settings"}
    assert "CHIO_TIMEOUT" in checks["settings"]["message"]
    assert checks["environment.CHIO_FAILOPEN"]["status"] == "warn"
    assert checks["version.python"]["status"] == "ok"


def test_an_unreadable_env_file_is_reported(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"CHIO_TIMEOUT=\xff\xfe\n")
    status, checks, _ = doctor(tmp_path)
    assert (status, failed(checks)) == (1, {"settings"})
    assert ".env" in checks["settings"]["message"]


def test_a_running_sidecar_states_its_clock_and_its_key(doctor: Doctor, tmp_path: Path) -> None:
    socket, store = tmp_path / "chio.sock", tmp_path / "receipts.sqlite3"
    arguments = ("api", "protect", "--upstream", "http://127.0.0.1:1", "--listen", f"unix:{socket}", "--receipt-store")
    with serving(*arguments, store):
        variables = {"CHIO_SIDECAR_URL": f"unix:{socket}"}
        status, checks, _ = doctor(tmp_path, "--receipt-db", store, **variables)
        key = checks["key"]["kernel_key"]
        other_status, other, _ = doctor(tmp_path, CHIO_TRUSTED_KERNEL_KEYS="ab" * 32, **variables)
    assert (status, failed(checks)) == (0, set())
    assert checks["clock"]["status"] == "ok"
    assert checks["store"]["status"] == "ok"
    assert key == load_key(store.with_name("receipts.sqlite3.key")).public_hex
    assert (other_status, failed(other)) == (1, {"key"})


# httpcore leaves the socket of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_a_sidecar_that_is_away_is_one_failure_with_a_remedy(doctor: Doctor, tmp_path: Path) -> None:
    status, checks, _ = doctor(tmp_path, CHIO_SIDECAR_URL=f"unix:{tmp_path}/none.sock")
    assert (status, failed(checks)) == (1, {"sidecar"})
    assert checks["sidecar"]["remedy"]
    gc.collect()  # here, and not in a later test
