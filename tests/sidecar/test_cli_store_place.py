"""Commands that read a store find it as the application does: an option, else `CHIO_SIDECAR_URL`, also in `.env`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.sidecar.control_tools import CommandLine, evaluate, key_file, run_command, serving, sidecars
from tests.sidecar.sidecar_tools import KERNEL

ISSUE = ("capability", "issue", "--server", "s", "--tool", "t")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One refused request, and the sidecar's key beside it."""
    path = tmp_path / "chio.sqlite3"
    key_file(tmp_path / "chio.sqlite3.key")
    with sidecars() as create:
        evaluate(create(store_path=path), None, request_id="a", method="POST")
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIO_SIDECAR_URL", raising=False)
    return tmp_path


@pytest.fixture(params=["environment", ".env", "with a document"])
def named(request: pytest.FixtureRequest, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings name the store, relative to the working directory."""
    if request.param == ".env":
        (folder / ".env").write_text("CHIO_SIDECAR_URL=embedded:chio.sqlite3\n")
    else:
        query = "?spec=missing.json" if request.param == "with a document" else ""
        monkeypatch.setenv("CHIO_SIDECAR_URL", f"embedded:chio.sqlite3{query}")


@pytest.mark.usefixtures("named")
def test_receipts_are_listed_and_shown_without_an_option(cli: CommandLine) -> None:
    name = json.loads(cli("receipt", "list"))["id"]
    assert json.loads(cli("receipt", "show", name))["id"] == name
    assert "no receipt unknown in chio.sqlite3" in cli.fails("receipt", "show", "unknown")


@pytest.mark.usefixtures("named")
def test_the_report_of_observe_mode_needs_no_option(cli: CommandLine) -> None:
    assert "would have refused 1 of 1 observed requests" in cli("receipt", "diff", "--all", status=3)


@pytest.mark.usefixtures("named")
def test_a_capability_is_issued_with_the_key_beside_that_store(store: Path, cli: CommandLine) -> None:
    token = json.loads(cli(*ISSUE))
    assert token["issuer"] == KERNEL.public_hex
    with sidecars() as create:
        assert evaluate(create(store_path=store), token, request_id="b")["verdict"] == {"verdict": "allow"}


@pytest.mark.usefixtures("named")
def test_a_capability_is_revoked_in_that_store(store: Path, cli: CommandLine) -> None:
    token = json.loads(cli(*ISSUE))
    cli("trust", "revoke", "--capability-id", token["id"])
    assert "revoked:       true" in cli("trust", "status", "--capability-id", token["id"])
    assert token["id"] in cli("trust", "list")
    with sidecars() as create:
        denied = evaluate(create(store_path=store), token, request_id="b")["verdict"]
    assert denied["reason"] == "capability token has been revoked"


def test_the_viewer_shows_that_store(store: Path) -> None:
    with serving("viewer", ready="is shown at", CHIO_SIDECAR_URL=f"embedded:{store}") as server:
        assert str(store) in server.ready
        assert httpx.get(server.url, trust_env=False).status_code == 200


def test_verify_reads_the_store_of_the_settings_if_nothing_is_piped_in(store: Path, tmp_path: Path) -> None:
    def verify(stdin: Any = None) -> subprocess.CompletedProcess[str]:
        url = f"embedded:{store}"
        return run_command("receipt", "verify", stdin=stdin, cwd=tmp_path, CHIO_SIDECAR_URL=url)

    done = verify()
    assert done.returncode == 0, done.stderr
    assert "1 receipt: 1 valid, 0 invalid" in done.stderr
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open() as nothing:
        done = verify(nothing)
    assert (done.returncode, done.stdout) == (1, "")  # the command before the pipe may have failed


def test_an_option_counts_before_the_settings(
    store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", "embedded:elsewhere.sqlite3")
    monkeypatch.setenv("CHIO_TIMEOUT", "never")  # the settings are not read then
    for option in ("--receipt-store", "--receipt-db"):
        assert json.loads(cli("receipt", "list", option, store))["request_id"] == "a"


READING = [
    ["receipt", "list"],
    ["receipt", "show", "x"],
    ["receipt", "diff"],
    ["viewer"],
    ["explain", "x"],
    ["trust", "list"],
    ["trust", "status", "--capability-id", "x"],
    ["trust", "revoke", "--capability-id", "x"],
]


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("url", [None, "http://127.0.0.1:9", "unix:/nowhere.sock"])
def test_without_a_store_the_options_and_the_variable_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine, command: list[str], url: str | None
) -> None:
    if url is not None:
        monkeypatch.setenv("CHIO_SIDECAR_URL", url)
    error = cli.fails(*command)
    assert "--receipt-store FILE" in error
    assert "or set CHIO_SIDECAR_URL=embedded:FILE" in error


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_makes_no_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine, command: list[str]
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", "embedded:missing.sqlite3")
    assert "missing.sqlite3" in cli.fails(*command)
    assert list(folder.iterdir()) == []


def test_without_an_issuer_the_options_and_the_variable_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", "http://127.0.0.1:9")
    error = cli.fails(*ISSUE)
    assert "--receipt-store" in error
    assert "CHIO_SIDECAR_URL=embedded:FILE" in error


def test_settings_that_cannot_be_used_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", "chio.sqlite3")
    assert "CHIO_SIDECAR_URL" in cli.fails("receipt", "list")
