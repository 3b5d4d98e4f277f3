"""`approval list`, `show` and `respond`, over HTTP and on the file of an embedded sidecar."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.app import SidecarApp
from chio_sidecar.cli import main
from chio_sidecar.cli.approvals import RemoteSidecar, StoreFile, named_approvals
from chio_sidecar.cli.options import CliError
from tests.sidecar.approval_tools import ROUTE, ask, control, pay, pending_id, reason, verdict
from tests.sidecar.control_tools import serving
from tests.sidecar.sidecar_tools import capability, run, sidecar


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[SidecarApp]:
    """A sidecar whose key is in the file beside its store, on the clock of this machine."""
    async with sidecar(folder, signing_key=None, clock=time.time) as app:
        app.state.sidecar.open()
        yield app


def token(name: str = "cap-1") -> Any:
    return capability(issued=int(time.time()) - 60, name=name)


def command(*arguments: object) -> int:
    return main(["approval", *map(str, arguments)])


async def test_an_operator_answers_in_the_file_while_the_application_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ("--receipt-store", tmp_path / "receipts.sqlite3")
    async with embedded(tmp_path) as app:
        approval_id = await pending_id(app, token=token())
        assert await asyncio.to_thread(command, "list", *place) == 0
        line = capsys.readouterr().out
        assert line.startswith(f"{approval_id}  until ")
        assert line.endswith("POST /pay/7 by anonymous: 500 USD against a threshold of 100 USD\n")
        assert await asyncio.to_thread(command, "show", approval_id, *place) == 0
        assert json.loads(capsys.readouterr().out)["pending"]["approval_id"] == approval_id
        respond = ("respond", approval_id, "--approve", "--reason", "seen", *place)
        assert await asyncio.to_thread(command, *respond) == 0
        said = capsys.readouterr()
        assert said.out == f"{approval_id}: approved\n"
        assert f"X-Chio-Approval: {approval_id}" in said.err
        assert verdict(await pay(app, 1, approval_id, token())) == "allow"
        assert await asyncio.to_thread(command, *respond) == 1
        assert "error [conflict]" in capsys.readouterr().err
        assert (await control(app, "GET", "/approvals/pending")).document["count"] == 0
    assert await asyncio.to_thread(command, "list", *place) == 0
    assert "no approval is pending" in capsys.readouterr().err


def test_the_url_of_an_embedded_sidecar_names_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", f"embedded:{tmp_path / 'receipts.sqlite3'}?spec=api.yaml")

    async def ask_twice() -> list[str]:
        async with embedded(tmp_path) as app:
            return [await pending_id(app, path, path=path, token=token()) for path in ("/pay/1", "/pay/2")]

    async def use(approval_id: str) -> None:
        async with embedded(tmp_path) as app:
            denied = await pay(app, "late", approval_id, token(), path="/pay/1")
            assert reason(denied) == f"approval {approval_id} was denied"

    first, second = run(ask_twice())
    assert command("list", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert ([one["approval_id"] for one in found["approvals"]], found["count"]) == ([first, second], 2)
    assert command("respond", first, "--deny", "--json") == 0
    assert json.loads(capsys.readouterr().out).items() >= {"approval_id": first, "outcome": "denied"}.items()
    assert command("show", first, "--json") == 0
    assert json.loads(capsys.readouterr().out)["resolution"]["outcome"] == "denied"
    run(use(first))


def test_a_running_sidecar_is_asked_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, secret = tmp_path / "r.sqlite3", "control-secret"
    options = ("--upstream", "http://127.0.0.1:1", "--spec", tmp_path / "api.json", "--receipt-store", store)
    document = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}
    (tmp_path / "api.json").write_text(json.dumps(document))
    request = {
        "request_id": "req-1",
        "caller": {"subject": "\x1b[31mred", "auth_method": {"method": "anonymous"}},
        "timestamp": int(time.time()),
    }
    with serving("api", "protect", "--listen", "127.0.0.1:0", *options, CHIO_SIDECAR_CONTROL_TOKEN=secret) as server:
        question = ROUTE | request | {"method": "GET"}
        answer = httpx.post(f"{server.url}/chio/evaluate", json=question)
        assert answer.status_code == 409
        approval_id = answer.json()["approval_id"]
        place = ("--sidecar-url", server.url, "--sidecar-token", secret)
        assert command("list", *place) == 0
        out = capsys.readouterr().out
        assert approval_id in out
        assert "\x1b" not in out
        assert command("list", "--sidecar-url", server.url, "--sidecar-token", "wrong") == 1
        err = capsys.readouterr().err
        assert "chio_control_forbidden" in err
        assert "CHIO_SIDECAR_CONTROL_TOKEN, for the sidecar and here, or name its file" in err
        assert command("respond", approval_id, "--approve", *place) == 0
        capsys.readouterr()
        question |= {"request_id": "req-2", "approval_token": approval_id}
        again = httpx.post(f"{server.url}/chio/evaluate", json=question)
        assert again.json()["verdict"] == {"verdict": "allow"}
        assert command("show", "apr-unknown", *place) == 1
        assert "error [not_found]: approval apr-unknown is not known" in capsys.readouterr().err


def arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **({"sidecar_url": None, "sidecar_token": None, "receipt_store": None, "receipt_db": None} | given)
    )


def test_two_places_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="name two sidecars"):
        named_approvals(arguments(sidecar_url="http://a", receipt_db=tmp_path / "x"), {})


def test_the_store_that_the_file_env_names_for_the_application_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".env").write_text("CHIO_SIDECAR_URL=embedded:chio.sqlite3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIO_SIDECAR_URL", raising=False)
    assert command("list") == 1
    assert "there is no receipt store chio.sqlite3" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["ftp://a", "http://user:secret@a", "nonsense", "http://"])
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(CliError, match="CHIO_SIDECAR_URL must be an http") as caught:
        named_approvals(arguments(), {"CHIO_SIDECAR_URL": url})
    assert "secret" not in caught.value.message


def test_neither_a_store_nor_a_key_is_made_by_looking(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite3"
    with pytest.raises(CliError, match="there is no receipt store"):
        StoreFile(path)
    path.touch()
    with pytest.raises(CliError, match="there is no signing key"):
        StoreFile(path)
    assert [file.name for file in tmp_path.iterdir()] == ["r.sqlite3"]


@pytest.mark.parametrize("name", [".", "/"])
def test_a_folder_is_no_store(name: str) -> None:
    with pytest.raises(ConfigurationError, match="is no file; name one for the receipt store"):
        StoreFile(Path(name))


def remote(answer: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> RemoteSidecar:
    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return RemoteSidecar("http://sidecar:9090/", None, transport=httpx.MockTransport(handle))


def test_an_id_stays_one_segment_of_the_path() -> None:
    seen: list[httpx.Request] = []
    remote(httpx.Response(200, json={}), seen).respond("a/../b?c", {"outcome": "denied"})
    assert seen[0].url.raw_path == b"/approvals/a%2F..%2Fb%3Fc/operator-respond"
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.ConnectError("secret"), "cannot reach the sidecar at http://sidecar:9090/: ConnectError"),
        (httpx.Response(200, text="<html>"), "answered 200 without a JSON object"),
        (httpx.Response(200, json=[]), "answered 200 without a JSON object"),
        (httpx.Response(409, json={"error": "conflict", "message": "was answered"}), "was answered"),
        (httpx.Response(409, json={"error": "conflict", "message": "was\x1b[2J\nanswered"}), "was\\x1b[2J\\nanswered"),
    ],
)
def test_a_sidecar_that_does_not_answer_is_one_sentence(answer: Any, words: str) -> None:
    with pytest.raises(CliError) as caught:
        remote(answer).pending()
    assert words in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("blank", ["", " ", ".", ".."])
def test_a_blank_id_is_refused(blank: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("r", "r.key"):
        (tmp_path / name).touch()
    assert command("respond", blank, "--deny", "--receipt-store", tmp_path / "r") == 1
    assert "the id of the approval is blank" in capsys.readouterr().err


def test_an_answer_says_yes_or_no(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--approve", "--deny"]):
        with pytest.raises(SystemExit) as caught:
            command("respond", "a", *options)
        assert caught.value.code == 2


async def test_a_capability_can_be_revoked_in_the_file_while_the_application_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--capability-id", "cap-1", "--receipt-db", str(tmp_path / "receipts.sqlite3")]
    assert main(["trust", "revoke", *place]) == 1
    assert "there is no receipt store at" in capsys.readouterr().err
    async with embedded(tmp_path) as app:
        plain = {"governed_intent": ...}
        assert verdict((await ask(app, 1, token(), **plain)).document) == "allow"
        assert await asyncio.to_thread(main, ["trust", "status", *place]) == 0
        assert "revoked:       false" in capsys.readouterr().out
        assert await asyncio.to_thread(main, ["trust", "revoke", *place]) == 0
        assert "newly_revoked: true" in capsys.readouterr().out
        refused = (await ask(app, 2, token(), **plain)).document
        assert refused["verdict"]["guard"] == "CapabilityRevocation"
        assert verdict((await ask(app, 3, token("cap-2"), **plain)).document) == "allow"
