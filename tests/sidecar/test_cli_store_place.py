"""Commands that read a store find it as the application does: an option, else `CHIO_SIDECAR_URL`, also in `.env`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import httpx
import pytest

from chio_core.signing import SigningKey
from chio_sidecar.cli import main
from tests.sidecar.control_tools import DEADLINE, environment, evaluate, serving, sidecars

KEY = SigningKey(b"\x21" * 32)
GRANT = ("capability", "issue", "--server", "s", "--tool", "t")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One refused request, and the sidecar's key beside it."""
    path = tmp_path / "chio.sqlite3"
    (tmp_path / "chio.sqlite3.key").write_text(KEY.seed_hex() + "\n")
    (tmp_path / "chio.sqlite3.key").chmod(0o600)
    with sidecars() as create:
        evaluate(create(store_path=path), None, request_id="a", method="POST")
    return path


@pytest.fixture(params=["environment", ".env", "with a document"])
def named(
    request: pytest.FixtureRequest, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """The store is named by the settings, relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    if request.param == ".env":
        (tmp_path / ".env").write_text("CHIO_SIDECAR_URL=embedded:chio.sqlite3\n")
    else:
        query = "?spec=missing.json" if request.param == "with a document" else ""
        monkeypatch.setenv("CHIO_SIDECAR_URL", f"embedded:chio.sqlite3{query}")
    return monkeypatch


def receipt_id(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["receipt", "list"]) == 0
    return str(json.loads(capsys.readouterr().out)["id"])


@pytest.mark.usefixtures("named")
def test_receipts_are_listed_and_shown_without_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    name = receipt_id(capsys)
    assert main(["receipt", "show", name]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == name
    assert main(["receipt", "show", "unknown"]) == 1
    assert "no receipt unknown in chio.sqlite3" in capsys.readouterr().err


@pytest.mark.usefixtures("named")
def test_the_report_of_observe_mode_needs_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["receipt", "diff", "--all"]) == 3
    assert "would have refused 1 of 1 observed requests" in capsys.readouterr().out


@pytest.mark.usefixtures("named")
def test_a_capability_is_issued_with_the_key_beside_that_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GRANT]) == 0
    token = json.loads(capsys.readouterr().out)
    assert token["issuer"] == KEY.public_hex
    with sidecars() as create:
        assert evaluate(create(store_path=store), token, request_id="b")["verdict"] == {"verdict": "allow"}


def test_the_viewer_shows_that_store(store: Path) -> None:
    url = f"embedded:{store}"
    with serving("viewer", ready="is shown at", CHIO_SIDECAR_URL=url) as server:
        assert str(store) in server.ready
        assert httpx.get(server.url, trust_env=False).status_code == 200


def verify(folder: Path, stdin: IO[Any] | int, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "chio_sidecar", "receipt", "verify"],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=environment(**variables),
        cwd=folder,
        check=False,
    )


def test_verify_takes_the_store_of_the_settings_where_nothing_is_piped_in(store: Path, tmp_path: Path) -> None:
    url = f"embedded:{store}"
    done = verify(tmp_path, subprocess.DEVNULL, CHIO_SIDECAR_URL=url)
    assert done.returncode == 0, done.stderr
    assert "1 receipt: 1 valid, 0 invalid" in done.stderr
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as nothing:
        done = verify(tmp_path, nothing, CHIO_SIDECAR_URL=url)
    assert (done.returncode, done.stdout) == (1, "")  # what should have come may have failed


def test_an_option_counts_before_the_settings(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIO_SIDECAR_URL", "embedded:elsewhere.sqlite3")
    monkeypatch.setenv("CHIO_TIMEOUT", "never")  # nobody needs the settings then
    for option in ("--receipt-store", "--receipt-db"):
        assert main(["receipt", "list", option, str(store)]) == 0
        assert json.loads(capsys.readouterr().out)["request_id"] == "a"


READING = [["receipt", "list"], ["receipt", "show", "x"], ["receipt", "diff"], ["viewer"], ["explain", "x"]]


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9", "unix:/nowhere.sock"])
def test_without_a_store_the_options_and_the_variable_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    url: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIO_SIDECAR_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("CHIO_SIDECAR_URL", url)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "--receipt-store FILE (or --receipt-db FILE), or set CHIO_SIDECAR_URL=embedded:FILE" in error


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIO_SIDECAR_URL", "embedded:missing.sqlite3")
    assert main(command) == 1
    assert "missing.sqlite3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_an_issuer_the_options_and_the_variable_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIO_SIDECAR_URL", "http://127.0.0.1:9")
    assert main([*GRANT]) == 1
    error = capsys.readouterr().err
    assert "--receipt-store" in error
    assert "CHIO_SIDECAR_URL=embedded:FILE" in error


def test_settings_that_cannot_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHIO_SIDECAR_URL", "chio.sqlite3")
    assert main(["receipt", "list"]) == 1
    assert "CHIO_SIDECAR_URL" in capsys.readouterr().err
