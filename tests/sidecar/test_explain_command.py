"""`chio-sidecar explain` on the command line: where it reads from, what it prints, how it ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import issue_capability, sign_link
from chio_core.signing import SigningKey
from tests.sidecar.control_tools import CommandLine, evaluation, fetch, key_file, run_command, serving, sidecars
from tests.sidecar.fsck_tools import alter

KEY = SigningKey(b"\x21" * 32)
STRANGER = SigningKey(b"\x41" * 32)
REQUIRED = {"error": "chio_capability_required", "message": "Chio capability required for pay/move", "status": 401}
CALL = {"method": "POST", "tool_server": "pay", "tool_name": "move"}


def evaluate(app: Any, request_id: str, token: str | None = None, **members: str) -> dict[str, Any]:
    """Evaluate one request and return the response's document."""
    headers = {} if token is None else {"X-Chio-Capability": token}
    body = evaluation(request_id) | members
    return dict(fetch(app, "POST", "/chio/evaluate", json=body, headers=headers).json())


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with one refusal, of the request `a`."""
    path = tmp_path / "receipts.sqlite3"
    key_file(tmp_path / "receipts.sqlite3.key", KEY)
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


@pytest.fixture
def fails(cli: CommandLine, store: Path) -> Callable[..., None]:
    """Try a token that fails these rules, with further options."""

    def check(path: str, *more: object, rules: set[str]) -> None:
        named = ("--server", "pay", "--tool", "move", "--receipt-store", store, "--json")
        output = cli("explain", "--token", path, *named, *more, status=bool(rules))
        assert {name for name, result in results(output).items() if result == "fail"} == rules

    return check


def results(output: str) -> dict[str, str]:
    return {step["name"]: step["result"] for step in map(json.loads, output.splitlines())}


def test_a_receipt_is_found_by_its_id_and_by_that_of_its_request(cli: CommandLine, store: Path) -> None:
    by_request = cli("explain", "a", "--receipt-store", store, "--json")
    document = json.loads(by_request)
    assert document["rule"] == "R8"
    assert document["command"].startswith(f"chio-sidecar capability issue --receipt-store {store} ")
    assert cli("explain", document["receipt_id"], "--receipt-db", store, "--json") == by_request


def test_a_document_is_read_from_a_file(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "refused.json").write_text(json.dumps(REQUIRED))
    output = cli("explain", tmp_path / "refused.json")
    assert "would pass:  pay/move:invoke\n" in output
    assert "command:     chio-sidecar capability issue --receipt-store FILE --server pay --tool move\n" in output


def test_each_refusal_of_a_list_of_receipts_is_explained(
    cli: CommandLine, store: Path, tmp_path: Path, token: Callable[..., str]
) -> None:
    with sidecars() as create:
        evaluate(create(store_path=store), "b", method="DELETE")
    listed = tmp_path / "denied.json"
    listed.write_text(cli("receipt", "list", "--receipt-store", store, "--outcome", "deny", "--json"))
    ids = [json.loads(line)["id"] for line in listed.read_text().splitlines()]
    explained = cli("explain", listed, "--json").splitlines()
    assert [json.loads(line)["receipt_id"] for line in explained] == ids
    assert len(ids) == 2
    for text in cli("explain", listed).split("\n\n"):
        assert text.count("would pass:") == 1
    assert "checked for one request" in cli.fails("explain", listed, "--token", token())


def test_no_stranger_can_write_commands_to_the_terminal(cli: CommandLine, tmp_path: Path) -> None:
    body = {"error": "chio_access_denied", "message": "\x1b[2Jgone\nrule: R0", "guard": "\u202eG", "status": 403}
    (tmp_path / "refused.json").write_text(json.dumps(body))
    output = cli("explain", tmp_path / "refused.json")
    assert not any(text in output for text in ("\x1b", "\u202e", "\nrule: R0"))


@pytest.mark.parametrize("content", ["", "{", "[]", "HTTP/1.1 401 Unauthorized\n\n{}", '{"a":1,"a":2}', "\udcff"])
def test_a_document_that_is_no_refusal_ends_with_one_sentence(cli: CommandLine, tmp_path: Path, content: str) -> None:
    path = tmp_path / "refused.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert cli.fails("explain", path).startswith("error [")
    assert cli.out == ""


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
def test_what_cannot_be_explained_ends_with_a_remedy(cli: CommandLine, arguments: list[str]) -> None:
    error = cli.fails("explain", *arguments)
    assert (cli.out, error.count("error ["), "canary" in error) == ("", 1, False)


def test_a_sufficient_token_passes_every_rule(cli: CommandLine, store: Path, token: Callable[..., str]) -> None:
    named = ("--server", "pay", "--tool", "move", "--method", "POST", "--path", "/x")
    output = cli("explain", "--token", token(), "--receipt-store", store, *named, "--json")
    names = {"form", "issuer", "signature", "time", "scope", "delegation", "revocation"}
    assert {name for name, result in results(output).items() if result == "ok"} >= names


def test_each_rule_that_a_token_fails_is_named(fails: Callable[..., None], token: Callable[..., str]) -> None:
    fails(token(STRANGER), rules={"issuer"})
    fails(token(STRANGER), "--trusted-issuer", STRANGER.public_hex, rules=set())
    fails(token(ttl=60, age=120), rules={"time"})
    fails(token(age=-120), rules={"time"})
    fails(token(tool_name="other"), rules={"scope"})
    fails(token(operations=["read"]), rules={"scope"})
    fails(token(), "--operation", "read", rules={"scope"})
    fails(token(dpop_required=True), rules={"scope"})
    fails(token(constraints=[{"type": "operation_class", "value": "read_only"}]), rules={"scope"})
    path = Path(token())
    path.write_text(path.read_text().replace('"move"', '"*"'))
    fails(path, rules={"signature"})
    path.write_text("no token")
    fails(path, rules={"form"})


def test_the_token_is_checked_with_what_the_document_or_the_refusal_requires(
    cli: CommandLine, store: Path, token: Callable[..., str], tmp_path: Path
) -> None:
    operation = {"responses": {}, "x-chio-capability": [{"server": "pay", "tool": "move", "operations": ["invoke"]}]}
    document = {"openapi": "3.1.0", "info": {}, "paths": {"/transfers/{id}": {"post": operation}}}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    (tmp_path / "refused.json").write_text(json.dumps(REQUIRED))
    by_document = ("--spec", tmp_path / "spec.json", "--method", "POST", "--path", "/transfers/7")
    for source in (by_document, (tmp_path / "refused.json",)):
        options = ("explain", *source, "--receipt-store", store, "--token")
        cli(*options, token())
        assert "fail    scope" in cli(*options, token(tool_name="other"), status=1)


def test_each_constraint_is_checked_by_itself(cli: CommandLine, store: Path, token: Callable[..., str]) -> None:
    constraints = [{"type": "max_length", "value": 3}, {"type": "path_prefix", "value": "/srv"}]
    options = ("--server", "pay", "--tool", "move", "--receipt-store", store, "--arguments", '{"path":"/srv/x"}')
    output = cli("explain", "--token", token(constraints=constraints), *options, status=1)
    assert 'no      grant 0: constraint does not hold for these arguments: {"type":"max_length","value":3}' in output
    assert 'ok      grant 0: constraint holds: {"type":"path_prefix","value":"/srv"}' in output
    cli("explain", "--token", token(constraints=constraints[1:]), *options)


def test_revocations_and_spent_uses_of_the_store_count(
    fails: Callable[..., None], store: Path, token: Callable[..., str]
) -> None:
    path = token(max_invocations=1)
    fails(path, rules=set())
    with sidecars() as create:
        used = evaluate(create(store_path=store, clock=time.time), "b", Path(path).read_text().strip(), **CALL)
    assert used["verdict"] == {"verdict": "allow"}
    fails(path, rules={"uses"})
    alter(store, "INSERT INTO revoked_capabilities VALUES ('cap-1', 1)")
    fails(path, rules={"uses", "revocation"})


def test_a_withdrawn_key_that_signed_a_link_of_the_delegation_is_named(cli: CommandLine, store: Path) -> None:
    link = sign_link(STRANGER, capability_id="cap-0", delegatee=KEY.public_hex, timestamp=int(time.time()) - 60)
    path = store.with_name("token.json")
    token = issue_capability(KEY, subject="0" * 64, scope={}, ttl_seconds=600, delegation_chain=[link])
    path.write_text(token.to_header())
    tried = ("explain", "--token", path, "--receipt-store", store)
    assert "ok      issuer" in cli(*tried)
    cli("trust", "revoke", "--issuer", STRANGER.public_hex, "--receipt-store", store)
    withdrawn = f"{STRANGER.public_hex}, which signed a link of its delegation, was withdrawn"
    assert f"fail    issuer: capability issuer is not trusted: {withdrawn}" in cli(*tried, status=1)


def test_trying_a_token_stores_nothing(fails: Callable[..., None], store: Path, token: Callable[..., str]) -> None:
    before = store.read_bytes()
    fails(token(max_invocations=1), rules=set())
    assert store.read_bytes() == before


def test_token_and_refusal_may_come_from_standard_input(token: Callable[..., str], tmp_path: Path) -> None:
    tried = run_command("explain", "--token", "-", "--json", stdin=Path(token()).read_text())
    assert (tried.returncode, results(tried.stdout)["signature"]) == (0, "ok")
    body = json.dumps({"error": "chio_timeout", "message": "Grüße \u0007", "status": 503}, ensure_ascii=False)
    refused = run_command("explain", "-", stdin=body, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (refused.returncode, refused.stderr) == (0, "")
    assert "command:     chio-sidecar doctor\n" in refused.stdout


def test_ids_are_looked_up_in_the_embedded_sidecar_of_the_environment(store: Path) -> None:
    done = run_command("explain", "a", CHIO_SIDECAR_URL=f"embedded:{store}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"capability issue --receipt-store {store} --server SERVER --tool TOOL\n" in done.stdout


def test_a_code_from_the_log_is_explained() -> None:
    done = run_command("explain", "chio_receipt_persistence_failed")
    assert (done.returncode, done.stderr) == (0, "")
    assert "could not store the receipt" in done.stdout
    assert "check whether the store's disk is full" in done.stdout


def test_a_token_is_checked_against_what_the_trust_service_has_revoked(
    cli: CommandLine, store: Path, token: Callable[..., str], tmp_path: Path
) -> None:
    serve = ("trust", "serve", "--listen", "127.0.0.1:0", "--revocation-db", tmp_path / "r", "--service-token", "t")
    with serving(*serve) as service:
        at = ("--control-url", service.url, "--control-token", "t")
        alone = ("explain", "--token", token(), "--json", *at)
        assert results(cli(*alone))["revocation"] == "ok"
        tried = (*alone, "--receipt-store", store)
        assert results(cli(*tried)).keys() >= {"issuer", "revocation"}
        cli("trust", "revoke", "--capability-id", "cap-1", *at)
        for options in (alone, tried):
            assert results(cli(*options, status=1))["revocation"] == "fail"
        cli("trust", "revoke", "--issuer", KEY.public_hex, *at)
        for options in (alone, tried):
            assert results(cli(*options, status=1))["issuer"] == "fail"


def test_a_trust_service_that_cannot_be_asked_is_an_error(cli: CommandLine, token: Callable[..., str]) -> None:
    tried = ("explain", "--token", token(), "--control-url", "http://127.0.0.1:9")
    assert "--control-url needs the service token" in cli.fails(*tried)
    assert "cannot reach the trust service" in cli.fails(*tried, "--control-token", "t")
