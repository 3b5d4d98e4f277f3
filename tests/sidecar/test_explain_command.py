"""`chio-sidecar explain` on the command line: where it reads from, what it prints, how it ends."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import issue_capability
from chio_core.signing import SigningKey
from chio_sidecar.cli import main
from tests.sidecar.control_tools import evaluation, fetch, run_command, sidecars

KEY = SigningKey(b"\x21" * 32)
STRANGER = SigningKey(b"\x41" * 32)
REQUIRED = {"error": "chio_capability_required", "message": "Chio capability required for pay/move", "status": 401}
CALL = {"method": "POST", "tool_server": "pay", "tool_name": "move"}


def evaluate(app: Any, request_id: str, token: str | None = None, **members: str) -> dict[str, Any]:
    """Ask for one decision and return the answer."""
    headers = {} if token is None else {"X-Chio-Capability": token}
    body = evaluation(request_id) | members
    document: dict[str, Any] = fetch(app, "POST", "/chio/evaluate", json=body, headers=headers).json()
    return document


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one refusal, of the request `a`."""
    path = tmp_path / "receipts.sqlite3"
    (tmp_path / "receipts.sqlite3.key").write_text(KEY.seed_hex() + "\n")
    (tmp_path / "receipts.sqlite3.key").chmod(0o600)
    with sidecars() as create:
        evaluate(create(store_path=path), "a", method="POST")
    return path


@pytest.fixture
def token(tmp_path: Path) -> Callable[..., str]:
    def make(key: SigningKey = KEY, *, ttl: int = 600, age: int = 0, **grant: Any) -> str:
        full = {"server_id": "pay", "tool_name": "move", "operations": ["invoke"]} | grant
        now = int(time.time()) - age
        scope = {"grants": [full]}
        made = issue_capability(key, subject="0" * 64, scope=scope, ttl_seconds=ttl, now=now, capability_id="cap-1")
        path = tmp_path / "token.json"
        path.write_text(made.to_header() + "\n")
        return str(path)

    return make


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def explained(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        status = main(["explain", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def results(output: str) -> dict[str, str]:
    return {step["name"]: step["result"] for step in map(json.loads, output.splitlines())}


def test_a_receipt_is_found_by_its_id_and_by_that_of_its_request(explained: Run, store: Path) -> None:
    status, by_request, _ = explained("a", "--receipt-store", store, "--json")
    document = json.loads(by_request)
    assert status == 0
    assert document["rule"] == "R8"
    assert document["command"].startswith(f"chio-sidecar capability issue --receipt-store {store} ")
    assert explained(document["receipt_id"], "--receipt-db", store, "--json")[1] == by_request


def test_a_document_is_read_from_a_file(explained: Run, tmp_path: Path) -> None:
    (tmp_path / "answer.json").write_text(json.dumps(REQUIRED))
    status, output, _ = explained(tmp_path / "answer.json")
    assert status == 0
    assert "would pass:  pay/move:invoke\n" in output
    assert "command:     chio-sidecar capability issue --receipt-store FILE --server pay --tool move\n" in output


def test_nothing_that_a_stranger_wrote_reaches_the_terminal_as_a_command(explained: Run, tmp_path: Path) -> None:
    body = {"error": "chio_access_denied", "message": "\x1b[2Jgone\nrule: R0", "guard": "\u202eG", "status": 403}
    (tmp_path / "answer.json").write_text(json.dumps(body))
    _, output, _ = explained(tmp_path / "answer.json")
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "\nrule: R0" not in output


@pytest.mark.parametrize("content", ["", "{", "[]", "HTTP/1.1 401 Unauthorized\n\n{}", '{"a":1,"a":2}', "\udcff"])
def test_what_is_no_refusal_ends_with_one_sentence(explained: Run, tmp_path: Path, content: str) -> None:
    path = tmp_path / "answer.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    status, output, error = explained(path)
    assert (status, output) == (1, "")
    assert error.startswith("error [")
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown-id"],
        ["unknown-id", "--receipt-store", "missing.sqlite3"],
        ["-", "--token", "-"],
        ["--token", "missing.json"],
        ["--token", "missing.json", "--server", "s"],
        ["."],
        ["unknown-id", "--control-url", "http://operator:canary@127.0.0.1:9"],
    ],
)
def test_what_cannot_be_explained_is_said_with_a_remedy(explained: Run, arguments: list[str]) -> None:
    status, output, error = explained(*arguments)
    assert (status, output) == (1, "")
    assert error.count("error [") == 1
    assert "canary" not in error


def test_a_token_that_would_pass_passes_every_rule(explained: Run, store: Path, token: Callable[..., str]) -> None:
    named = ("--server", "pay", "--tool", "move", "--method", "POST", "--path", "/x")
    status, output, _ = explained("--token", token(), "--receipt-store", store, *named, "--json")
    assert status == 0
    names = {"form", "issuer", "signature", "time", "scope", "delegation", "revocation"}
    assert {name for name, result in results(output).items() if result == "ok"} >= names


def fails(explained: Run, store: Path, path: str, *more: object) -> set[str]:
    named = ("--server", "pay", "--tool", "move", "--receipt-store", store, "--json")
    status, output, _ = explained("--token", path, *named, *more)
    found = {name for name, result in results(output).items() if result == "fail"}
    assert status == bool(found)
    return found


def test_each_rule_that_a_token_fails_is_named(explained: Run, store: Path, token: Callable[..., str]) -> None:
    assert fails(explained, store, token(STRANGER)) == {"issuer"}
    assert fails(explained, store, token(STRANGER), "--trusted-issuer", STRANGER.public_hex) == set()
    assert fails(explained, store, token(ttl=60, age=120)) == {"time"}
    assert fails(explained, store, token(age=-120)) == {"time"}
    assert fails(explained, store, token(tool_name="other")) == {"scope"}
    assert fails(explained, store, token(operations=["read"])) == {"scope"}
    assert fails(explained, store, token(), "--operation", "read") == {"scope"}
    path = Path(token())
    path.write_text(path.read_text().replace('"move"', '"*"'))
    assert fails(explained, store, str(path)) == {"signature"}
    path.write_text("no token")
    assert fails(explained, store, str(path)) == {"form"}


def test_the_token_is_checked_with_what_the_document_or_the_refusal_requires(
    explained: Run, store: Path, token: Callable[..., str], tmp_path: Path
) -> None:
    operation = {"responses": {}, "x-chio-capability": [{"server": "pay", "tool": "move", "operations": ["invoke"]}]}
    document = {"openapi": "3.1.0", "info": {}, "paths": {"/transfers/{id}": {"post": operation}}}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    (tmp_path / "refused.json").write_text(json.dumps(REQUIRED))
    for source in (
        ("--spec", tmp_path / "spec.json", "--method", "POST", "--path", "/transfers/7"),
        (tmp_path / "refused.json",),
    ):
        assert explained(*source, "--receipt-store", store, "--token", token())[0] == 0
        status, output, _ = explained(*source, "--receipt-store", store, "--token", token(tool_name="other"))
        assert (status, "fail    scope" in output) == (1, True)


def test_each_constraint_is_checked_by_itself(explained: Run, store: Path, token: Callable[..., str]) -> None:
    constraints = [{"type": "max_length", "value": 3}, {"type": "path_prefix", "value": "/srv"}]
    path = token(constraints=constraints)
    arguments = ("--server", "pay", "--tool", "move", "--receipt-store", store)
    status, output, _ = explained("--token", path, *arguments, "--arguments", '{"path":"/srv/x"}')
    assert status == 1
    assert 'no      grant 0: constraint does not hold for these arguments: {"type":"max_length","value":3}' in output
    assert 'ok      grant 0: constraint holds: {"type":"path_prefix","value":"/srv"}' in output
    path = token(constraints=constraints[1:])
    assert explained("--token", path, *arguments, "--arguments", '{"path":"/srv/x"}')[0] == 0


def test_revocations_and_spent_uses_of_the_store_count(explained: Run, store: Path, token: Callable[..., str]) -> None:
    path = token(max_invocations=1)
    assert fails(explained, store, path) == set()
    with sidecars() as create:
        app = create(store_path=store, clock=time.time)
        answer = evaluate(app, "b", Path(path).read_text().strip(), **CALL)
    assert answer["verdict"] == {"verdict": "allow"}
    assert fails(explained, store, path) == {"uses"}
    with sqlite3.connect(store) as connection:
        connection.execute("INSERT INTO revoked_capabilities VALUES ('cap-1', 1)")
    connection.close()
    assert fails(explained, store, path) == {"uses", "revocation"}


def test_trying_a_token_stores_nothing(explained: Run, store: Path, token: Callable[..., str]) -> None:
    before = store.read_bytes()
    fails(explained, store, token(max_invocations=1))
    assert store.read_bytes() == before


def test_token_and_answer_may_come_from_standard_input(token: Callable[..., str], tmp_path: Path) -> None:
    tried = run_command("explain", "--token", "-", "--json", stdin=Path(token()).read_text())
    assert (tried.returncode, results(tried.stdout)["signature"]) == (0, "ok")
    body = json.dumps({"error": "chio_timeout", "message": "Grüße \u0007", "status": 503}, ensure_ascii=False)
    answer = run_command("explain", "-", stdin=body, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "command:     chio-sidecar doctor\n" in answer.stdout


def test_ids_are_looked_up_in_the_embedded_sidecar_of_the_environment(store: Path) -> None:
    done = run_command("explain", "a", CHIO_SIDECAR_URL=f"embedded:{store}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"capability issue --embedded {store} --server SERVER --tool TOOL\n" in done.stdout
