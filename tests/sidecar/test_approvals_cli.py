"""`approval list`, `show` and `respond`, over HTTP and on the file of an embedded sidecar."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.cli.approvals import RemoteSidecar, StoreFile, named_approvals
from chio_sidecar.cli.terminal import CliError
from tests.sidecar.approval_tools import ROUTE, control, pay, pending_id, reason, request_payment, verdict
from tests.sidecar.control_tools import CommandLine, serving
from tests.sidecar.sidecar_tools import capability, sidecar

EMBEDDED: dict[str, Any] = {"signing_key": None, "clock": time.time}
"""Options of a sidecar whose key is in the file beside its store, on the clock of this machine."""


def token(name: str = "cap-1") -> Any:
    return capability(issued=int(time.time()) - 60, name=name)


async def test_an_operator_responds_in_the_file_while_the_application_runs(tmp_path: Path, cli: CommandLine) -> None:
    async def approval(command: str, *arguments: str, status: int = 0) -> str:
        words = ("approval", command, *arguments, "--receipt-store", tmp_path / "receipts.sqlite3")
        return await asyncio.to_thread(cli, *words, status=status)

    async with sidecar(tmp_path, **EMBEDDED) as app:
        approval_id = await pending_id(app, token=token())
        heading, line = (await approval("list")).splitlines()
        assert heading.split() == ["TIME", "EXPIRES", "REQUEST", "ID"]
        assert line.endswith(f"Z  POST /pay/7 by anonymous: 500 USD against a threshold of 100 USD  {approval_id}")
        assert json.loads(await approval("show", approval_id))["pending"]["approval_id"] == approval_id
        respond = ("respond", approval_id, "--approve", "--reason", "seen")
        assert await approval(*respond) == f"{approval_id}: approved\n"
        assert f"X-Chio-Approval: {approval_id}" in cli.err
        assert verdict(await pay(app, 1, approval_id, token())) == "allow"
        await approval(*respond, status=1)
        assert "error [conflict]" in cli.err
        assert (await control(app, "GET", "/approvals/pending")).document["count"] == 0
    await approval("list")
    assert "no approval is pending" in cli.err


async def test_the_url_of_an_embedded_sidecar_names_its_file(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", f"embedded:{tmp_path / 'receipts.sqlite3'}?spec=api.yaml")

    async def approval(*arguments: str) -> Any:
        return json.loads(await asyncio.to_thread(cli, "approval", *arguments, "--json"))

    async with sidecar(tmp_path, **EMBEDDED) as app:
        ids = [await pending_id(app, path, path=path, token=token()) for path in ("/pay/1", "/pay/2")]
    found = await approval("list")
    assert ([one["approval_id"] for one in found["approvals"]], found["count"]) == (ids, 2)
    table = await asyncio.to_thread(cli, "approval", "list")
    assert [line.split()[-1] for line in table.splitlines()[1:]] == ids[::-1]
    assert (await approval("respond", ids[0], "--deny")).items() >= {"approval_id": ids[0], "outcome": "denied"}.items()
    assert (await approval("show", ids[0]))["resolution"]["outcome"] == "denied"
    async with sidecar(tmp_path, **EMBEDDED) as app:
        denied = await pay(app, "late", ids[0], token(), path="/pay/1")
        assert reason(denied) == f"approval {ids[0]} was denied"


def test_a_running_sidecar_is_called_over_http(tmp_path: Path, cli: CommandLine) -> None:
    secret = "control-secret"
    document = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {}}
    (tmp_path / "api.json").write_text(json.dumps(document))
    options = ("--upstream", "http://127.0.0.1:1", "--spec", tmp_path / "api.json")
    store = ("--receipt-store", tmp_path / "r.sqlite3", "--listen", "127.0.0.1:0")
    body = ROUTE | {
        "method": "GET",
        "request_id": "req-1",
        "caller": {"subject": "\x1b[31mred", "auth_method": {"method": "anonymous"}},
        "timestamp": int(time.time()),
    }
    with serving("api", "protect", *options, *store, CHIO_SIDECAR_CONTROL_TOKEN=secret) as server:
        response = httpx.post(f"{server.url}/chio/evaluate", json=body)
        assert response.status_code == 409
        approval_id = response.json()["approval_id"]
        place = ("--sidecar-url", server.url, "--sidecar-control-token", secret)
        out = cli("approval", "list", *place)
        assert approval_id in out
        assert "\x1b" not in out
        error = cli.fails("approval", "list", "--sidecar-url", server.url, "--sidecar-control-token", "wrong")
        assert "chio_control_forbidden" in error
        assert "CHIO_SIDECAR_CONTROL_TOKEN, for the sidecar and here, or name its file" in error
        cli("approval", "respond", approval_id, "--approve", *place)
        body |= {"request_id": "req-2", "approval_token": approval_id}
        again = httpx.post(f"{server.url}/chio/evaluate", json=body)
        assert again.json()["verdict"] == {"verdict": "allow"}
        error = cli.fails("approval", "show", "apr-unknown", *place)
        assert "error [not_found]: approval apr-unknown is not known" in error


def arguments(**given: Any) -> argparse.Namespace:
    none = dict.fromkeys(("sidecar_url", "sidecar_control_token", "receipt_store", "receipt_db"))
    return argparse.Namespace(**(none | given))


def test_two_sidecars_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="name two sidecars"):
        named_approvals(arguments(sidecar_url="http://a", receipt_db=tmp_path / "x"), {})


def test_the_store_that_the_file_env_names_for_the_application_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: CommandLine
) -> None:
    (tmp_path / ".env").write_text("CHIO_SIDECAR_URL=embedded:chio.sqlite3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIO_SIDECAR_URL", raising=False)
    assert "there is no receipt store chio.sqlite3" in cli.fails("approval", "list")


@pytest.mark.parametrize("url", ["ftp://a", "http://user:secret@a", "nonsense", "http://"])
def test_a_malformed_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(CliError, match="CHIO_SIDECAR_URL must be an http") as caught:
        named_approvals(arguments(), {"CHIO_SIDECAR_URL": url})
    assert "secret" not in caught.value.message


def test_neither_a_store_nor_a_key_is_created(tmp_path: Path) -> None:
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


def remote(response: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> RemoteSidecar:
    def handle(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        if isinstance(response, Exception):
            raise response
        return response

    return RemoteSidecar("http://sidecar:9090/", None, transport=httpx.MockTransport(handle))


def test_an_id_stays_one_segment_of_the_path() -> None:
    seen: list[httpx.Request] = []
    remote(httpx.Response(200, json={}), seen).respond("a/../b?c", {"outcome": "denied"})
    assert seen[0].url.raw_path == b"/approvals/a%2F..%2Fb%3Fc/operator-respond"
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.ConnectError("secret"), "cannot reach the sidecar at http://sidecar:9090/: ConnectError"),
        (httpx.Response(200, text="<html>"), "http://sidecar:9090/ answered 200, but not as a Chio sidecar does"),
        (httpx.Response(200, json=[]), "http://sidecar:9090/ answered 200, but not as a Chio sidecar does"),
        (httpx.Response(404, json={"detail": "Not Found"}), "answered 404, but not as a Chio sidecar does"),
        (httpx.Response(404, json={"error": "Not Found"}), "answered 404, but not as a Chio sidecar does"),
        (httpx.Response(409, json={"error": "conflict", "message": "was answered"}), "was answered"),
        (httpx.Response(409, json={"error": "conflict", "message": "was\x1b[2J\nanswered"}), "was\\x1b[2J\\nanswered"),
    ],
)
def test_a_sidecar_that_does_not_respond_is_one_sentence(response: Any, words: str) -> None:
    with pytest.raises(CliError) as caught:
        remote(response).pending()
    assert words in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("blank", ["", " ", ".", ".."])
def test_a_blank_id_is_refused(blank: str, tmp_path: Path, cli: CommandLine) -> None:
    for name in ("r", "r.key"):
        (tmp_path / name).touch()
    error = cli.fails("approval", "respond", blank, "--deny", "--receipt-store", tmp_path / "r")
    assert "the id of the approval is blank" in error


def test_a_response_approves_or_denies(cli: CommandLine) -> None:
    for options in ([], ["--approve", "--deny"]):
        cli.misused("approval", "respond", "a", *options)


async def test_a_capability_can_be_revoked_in_the_file_while_the_application_runs(
    tmp_path: Path, cli: CommandLine
) -> None:
    place = ("--capability-id", "cap-1", "--receipt-db", tmp_path / "receipts.sqlite3")
    assert "there is no receipt store at" in cli.fails("trust", "revoke", *place)
    async with sidecar(tmp_path, **EMBEDDED) as app:
        plain = {"governed_intent": ...}
        assert verdict((await request_payment(app, 1, token(), **plain)).document) == "allow"
        assert "revoked:       false" in await asyncio.to_thread(cli, "trust", "status", *place)
        assert "newly_revoked: true" in await asyncio.to_thread(cli, "trust", "revoke", *place)
        refused = (await request_payment(app, 2, token(), **plain)).document
        assert refused["verdict"]["guard"] == "CapabilityRevocation"
        assert verdict((await request_payment(app, 3, token("cap-2"), **plain)).document) == "allow"
