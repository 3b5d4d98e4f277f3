"""`capability issue`, and `trust revoke`, `trust status` and `trust list` on a file (wire protocol, section 10.4)."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from chio_core.capabilities import issue_capability, verify_capability
from chio_core.capabilities.restrictions import REFUSED
from chio_core.errors import InvalidDocument
from chio_core.models.request import CallerIdentity
from chio_core.signing import SigningKey
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.trust.authorities import DatabaseAuthority, SeedFileAuthority
from chio_sidecar.trust.stores import RevocationStore
from tests.sidecar.control_tools import ZEROS, CommandLine, evaluate, sidecars, write_store
from tests.sidecar.test_evaluate_restrictions import VALUES
from tests.viewer.records import receipt

ISSUE = ("capability", "issue", "--server", "http-sidecar-client", "--tool", "hello_write")
Issue = Callable[..., dict[str, Any]]


@pytest.fixture
def issue(cli: CommandLine) -> Issue:
    """Issue a token: one line of ASCII without spaces, fit for a header."""

    def run(*arguments: object) -> dict[str, Any]:
        text = cli(*ISSUE, *arguments)
        assert text.isascii()
        assert text.count("\n") == 1
        assert " " not in text
        token: dict[str, Any] = json.loads(text)
        return token

    return run


def test_a_token_signed_with_the_sidecars_key_opens_it(tmp_path: Path, issue: Issue) -> None:
    store = tmp_path / "receipts.sqlite3"
    store.touch(0o600)  # a store that no sidecar has opened yet
    for option in ("--embedded", "--receipt-store", "--receipt-db"):
        token = issue(option, store)
        with sidecars() as create:
            assert evaluate(create(store_path=store), token, request_id=option)["verdict"] == {"verdict": "allow"}
    assert stat.S_IMODE((tmp_path / "receipts.sqlite3.key").stat().st_mode) == 0o600


def test_a_store_that_is_not_there_gets_no_key(tmp_path: Path, cli: CommandLine) -> None:
    for option in ("--embedded", "--receipt-store", "--receipt-db"):
        assert f"there is no receipt store at {tmp_path / 'typo'}" in cli.fails(*ISSUE, option, tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


def test_a_store_whose_key_is_lost_gets_no_other(tmp_path: Path, cli: CommandLine) -> None:
    store = write_store(tmp_path / "r", [receipt(1)])
    error = cli.fails(*ISSUE, "--receipt-store", store)
    assert (
        f"key file {store}.key is missing, and the receipts of {store} were signed with {receipt(1)['kernel_key']}"
        in error
    )
    assert not Path(f"{store}.key").exists()


def test_a_new_key_is_announced(tmp_path: Path, cli: CommandLine) -> None:
    seed = tmp_path / "seed"
    cli(*ISSUE, "--authority-seed-file", seed)
    key = SigningKey.from_seed_hex(seed.read_text())
    assert cli.err == f"created signing key {seed}, public key {key.public_hex}\n"
    assert key.seed_hex() not in cli.err + cli.out


def test_the_defaults_are_one_hour_invoke_and_no_particular_holder(tmp_path: Path, issue: Issue) -> None:
    token = issue("--authority-seed-file", tmp_path / "seed")
    assert token["subject"] == ZEROS
    assert token["expires_at"] - token["issued_at"] == 3600
    grant = {"server_id": "http-sidecar-client", "tool_name": "hello_write", "operations": ["invoke"]}
    assert token["scope"] == {"grants": [grant]}


def test_every_option_is_in_the_token(tmp_path: Path, issue: Issue) -> None:
    constraint = {"type": "path_prefix", "value": "/ä"}
    options: list[object] = ["--operation", "invoke", "--operation", "read", "--max-invocations", 3, "--ttl", 7]
    options += ["--constraint", json.dumps(constraint, separators=(",", ":")), "--subject", "0x" + "A" * 64]
    token = issue("--authority-seed-file", tmp_path / "seed", "--for-newer", *options)
    own, newer = token["scope"]["grants"]
    assert own["operations"] == ["invoke", "read"]
    assert (own["constraints"], own["max_invocations"]) == ([constraint], 3)
    assert newer == {
        "server_id": "chio_http_authority",
        "tool_name": "authorize_http_request",
        "operations": ["invoke"],
    }
    assert (token["subject"], token["expires_at"] - token["issued_at"]) == ("a" * 64, 7)
    key = SigningKey.from_seed_hex((tmp_path / "seed").read_text())
    verify_capability(token, trusted_issuers={key.public_hex}, accept_schema_form=False)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)])
def test_a_lifetime_may_have_a_unit(text: str, seconds: int, tmp_path: Path, issue: Issue) -> None:
    token = issue("--authority-seed-file", tmp_path / "seed", "--ttl", text)
    assert token["expires_at"] - token["issued_at"] == seconds


def test_a_lifetime_that_is_none_is_refused_with_the_forms(cli: CommandLine) -> None:
    assert "'1 hour' is no lifetime; write seconds, or an amount such as 30m, 24h, 7d" in cli.misused(
        *ISSUE, "--ttl", "1 hour"
    )


def test_a_seed_file_that_is_lost_after_a_rotation_is_not_made_again(tmp_path: Path, cli: CommandLine) -> None:
    SeedFileAuthority(tmp_path / "seed").rotate()
    (tmp_path / "seed").unlink()
    assert "(--authority-seed-file) is missing" in cli.fails(*ISSUE, "--authority-seed-file", tmp_path / "seed")
    assert not (tmp_path / "seed").exists()


def test_an_authority_database_signs_too(tmp_path: Path, cli: CommandLine, issue: Issue) -> None:
    assert "there is no authority in" in cli.fails(*ISSUE, "--authority-db", tmp_path / "a.db")
    authority = DatabaseAuthority(tmp_path / "a.db")
    token = issue("--authority-db", tmp_path / "a.db")
    verify_capability(token, trusted_issuers=authority.status().trusted_keys)
    authority.close()


def test_each_tool_that_is_named_gets_a_grant(tmp_path: Path, cli: CommandLine) -> None:
    tools = ("--tool", "b", "--tool", "c", "--tool", "b", "--for-newer")
    token = json.loads(cli(*ISSUE, *tools, "--max-invocations", 2, "--authority-seed-file", tmp_path / "s.sqlite3"))
    *grants, newer = token["scope"]["grants"]
    assert [(grant["tool_name"], grant["max_invocations"]) for grant in grants] == [
        ("hello_write", 2),
        ("b", 2),
        ("c", 2),
    ]
    assert newer["server_id"] == "chio_http_authority"


@pytest.mark.parametrize("arguments", [[], ["--receipt-store", "a", "--authority-seed-file", "b"]])
def test_exactly_one_issuer_must_be_named(cli: CommandLine, arguments: list[str]) -> None:
    assert "exactly one issuer must be named" in cli.fails(*ISSUE, *arguments)


@pytest.mark.parametrize("constraint", ['{"type":"nonsense"}', '{"type":"max_length","value":"x"}'])
def test_a_constraint_of_another_form_is_refused(tmp_path: Path, cli: CommandLine, constraint: str) -> None:
    error = cli.fails(*ISSUE, "--authority-seed-file", tmp_path / "s", "--constraint", constraint)
    assert "the grant cannot be used" in error
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, cli: CommandLine) -> None:
    seed = tmp_path / "seed"
    seed.write_text("ab" * 32 + "\n")
    seed.chmod(0o644)
    error = cli.fails(*ISSUE, "--authority-seed-file", seed)
    assert "chmod 600" in error
    assert "ab" * 32 not in error


def test_revoke_and_status_for_people(tmp_path: Path, cli: CommandLine) -> None:
    RevocationStore(tmp_path / "r.db").close()
    place = ("--capability-id", "cap-1", "--revocation-db", tmp_path / "r.db")
    assert cli("trust", "revoke", *place) == (
        "capability_id: cap-1\nrevoked:       true\nnewly_revoked: true\nbackend:       sqlite\n"
    )
    assert cli("trust", "revoke", *place).splitlines()[2] == "newly_revoked: false"
    assert cli("trust", "status", *place) == "capability_id: cap-1\nrevoked:       true\nbackend:       sqlite\n"


def test_the_whole_token_in_the_place_of_its_id_revokes_that_token(
    tmp_path: Path, cli: CommandLine, issue: Issue
) -> None:
    RevocationStore(tmp_path / "r.db").close()
    token = issue("--authority-seed-file", tmp_path / "k")
    place = ("--revocation-db", tmp_path / "r.db")
    printed = cli("trust", "revoke", "--capability-id", json.dumps(token), *place)
    assert printed.splitlines()[0] == f"capability_id: {token['id']}"
    assert "revoked:       true" in cli("trust", "status", "--capability-id", token["id"], *place)


@pytest.mark.parametrize(
    ("text", "words"),
    [('{"id": ', "not a JSON document"), ('{"jti": "canary"}', "its member id"), ('{"id": 7}', "its member id")],
)
def test_a_text_that_begins_like_a_token_and_has_no_id_is_refused_without_repeating_it(
    text: str, words: str, cli: CommandLine
) -> None:
    error = cli.misused("trust", "revoke", "--capability-id", text, "--revocation-db", "r.db")
    assert "argument --capability-id: " in error
    assert words in error
    assert "canary" not in error


def test_revoke_and_status_for_programs(tmp_path: Path, cli: CommandLine) -> None:
    RevocationStore(tmp_path / "r.db").close()
    place = ("--json", "--capability-id", "cap-1", "--revocation-db", tmp_path / "r.db")
    before = {"capability_id": "cap-1", "revoked": False, "revocation_backend": "sqlite"}
    assert json.loads(cli("trust", "status", *place)) == before
    assert json.loads(cli("trust", "revoke", *place)) == before | {"revoked": True, "newly_revoked": True}


def test_the_key_of_an_issuer_is_withdrawn_as_a_capability_is_revoked(tmp_path: Path, cli: CommandLine) -> None:
    RevocationStore(tmp_path / "r.db").close()
    place = ("--revocation-db", tmp_path / "r.db")
    assert "revoked:       false" in cli("trust", "status", "--issuer", "AB" * 32, *place)
    assert f"capability_id: issuer:{'ab' * 32}\nrevoked:       true" in cli(
        "trust", "revoke", "--issuer", f"0x{'AB' * 32}", *place
    )
    assert "revoked:       true" in cli("trust", "status", "--issuer", "ab" * 32, *place)
    assert cli("trust", "list", *place).split()[-1] == f"issuer:{'ab' * 32}"


@pytest.mark.parametrize("command", ["revoke", "status"])
def test_the_name_of_an_issuer_is_refused_as_the_id_of_a_capability(
    command: str, tmp_path: Path, cli: CommandLine
) -> None:
    """A misspelt key would be revoked without an effect."""
    RevocationStore(tmp_path / "r.db").close()
    place = ("--revocation-db", tmp_path / "r.db")
    error = cli.fails("trust", command, "--capability-id", f" issuer:{'AB' * 32}", *place)
    assert "--capability-id names an issuer" in error
    assert "write --issuer KEY" in error
    assert cli("trust", "list", *place) == ""


def test_the_withdrawal_of_the_sidecars_own_key_says_that_its_tokens_are_refused(
    tmp_path: Path, cli: CommandLine, issue: Issue
) -> None:
    store = write_store(tmp_path / "s.sqlite3", [])
    place = ("--receipt-store", store)
    cli("trust", "revoke", "--issuer", "ab" * 32, *place)  # without a key file there is nothing to say
    assert cli.err == ""
    token = issue(*place)
    cli("trust", "revoke", "--issuer", "cd" * 32, *place)
    assert cli.err == ""
    cli("trust", "revoke", "--issuer", token["issuer"], *place)
    assert cli.err.startswith("note: this is the sidecar's own key: tokens that it issues are refused from now on")
    cli("trust", "status", "--issuer", token["issuer"], *place)
    assert cli.err == ""
    with sidecars() as create:
        found = evaluate(create(store_path=store), token, method="POST")
    assert found["verdict"]["reason"] == "capability issuer is not trusted"


def test_a_withdrawn_key_of_a_store_issues_nothing(tmp_path: Path, cli: CommandLine, issue: Issue) -> None:
    place = ("--receipt-store", write_store(tmp_path / "s.sqlite3", []))
    key = issue(*place)["issuer"]
    cli("trust", "revoke", "--issuer", key, *place)
    error = cli.fails(*ISSUE, *place)
    assert f"the key {key} was withdrawn, so no capability that it signs is accepted" in error
    assert "give the sidecar another key" in error
    (tmp_path / "s.sqlite3.key").unlink()
    assert issue(*place)["issuer"] != key


def test_the_help_says_what_a_revocation_does_about_keys(cli: CommandLine) -> None:
    with pytest.raises(SystemExit):
        cli("trust", "revoke", "--help")
    assert "withdraw the key of an issuer and with it all that it has signed" in " ".join(cli.printed().split())


def test_revocations_are_listed_newest_first(tmp_path: Path, cli: CommandLine) -> None:
    database = tmp_path / "r.db"
    RevocationStore(database).close()
    place = ("--revocation-db", database)
    assert cli("trust", "list", *place) == ""
    assert cli.err == "no capability is revoked\n"
    for name in ("cap-1", "cap-2\x1b[31m", "cap-3"):
        cli("trust", "revoke", "--capability-id", name, *place)
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE revoked_capabilities SET revoked_at = 1776272775 WHERE capability_id = 'cap-1'")
    connection.close()
    heading, *rows = cli("trust", "list", *place).splitlines()
    assert heading.split() == ["REVOKED", "CAPABILITY"]
    assert rows[-1] == "2026-04-15T17:06:15Z  cap-1"
    assert [row.split()[1] for row in rows] == ["cap-3", "cap-2\\x1b[31m", "cap-1"]
    found = json.loads(cli("trust", "list", "--json", "--limit", 1, *place))
    assert (found["count"], found["revocations"][0]["capability_id"]) == (1, "cap-3")
    assert "--limit N prints more" in cli.err


def test_the_revocations_of_a_sidecars_store_are_listed(tmp_path: Path, cli: CommandLine) -> None:
    store = write_store(tmp_path / "s.sqlite3", [])
    cli("trust", "revoke", "--capability-id", "cap-1", "--receipt-store", store)
    assert [line.split()[-1] for line in cli("trust", "list", "--receipt-store", store).splitlines()] == [
        "CAPABILITY",
        "cap-1",
    ]


def test_a_blank_id_is_refused(tmp_path: Path, cli: CommandLine) -> None:
    error = cli.fails("trust", "revoke", "--capability-id", " ", "--revocation-db", tmp_path / "r.db")
    assert "--capability-id is blank" in error


@pytest.mark.parametrize("command", ["revoke", "status", "list"])
def test_a_database_of_revocations_that_does_not_exist_is_not_made(
    command: str, tmp_path: Path, cli: CommandLine
) -> None:
    """A revocation in it would be reported, and read by no service."""
    mistyped = tmp_path / "revocation.db"
    about = () if command == "list" else ("--capability-id", "cap-1")
    error = cli.fails("trust", command, *about, "--revocation-db", mistyped)
    assert f"there is no database of revocations at {mistyped} (--revocation-db)" in error
    assert not mistyped.exists()


def test_a_file_that_is_no_database_is_named(tmp_path: Path, cli: CommandLine) -> None:
    (tmp_path / "r.db").write_text("no database " * 100)
    error = cli.fails("trust", "status", "--capability-id", "c", "--revocation-db", tmp_path / "r.db")
    assert "r.db (--revocation-db) as a database" in error


CONSTRAINT = {"type": "require_approval_above", "value": {"threshold_units": 5}}


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_restriction_that_nothing_here_enforces_is_named_when_it_is_issued(
    kind: str, tmp_path: Path, cli: CommandLine
) -> None:
    """The token may be for another kernel, so it is issued; the sidecar refuses it with the same words."""
    value = VALUES[kind]
    constraint = json.dumps({"type": kind} if value is None else {"type": kind, "value": value})
    token = json.loads(cli(*ISSUE, "--authority-seed-file", tmp_path / "s.sqlite3.key", "--constraint", constraint))
    assert f"warning: {kind} is not enforced here" in cli.err
    with sidecars() as create:
        found = evaluate(create(store_path=tmp_path / "s.sqlite3"), token, method="POST")
    assert found["verdict"]["reason"] == f"capability is restricted by {kind}, which is not enforced for this route"


def test_an_approval_in_a_capability_is_noted(tmp_path: Path, cli: CommandLine) -> None:
    cli(*ISSUE, "--authority-seed-file", tmp_path / "s", "--constraint", json.dumps(CONSTRAINT))
    assert "note: require_approval_above is enforced on routes that demand an approval" in cli.err
    cli(*ISSUE, "--authority-seed-file", tmp_path / "s", "--constraint", '{"type":"max_length","value":5}')
    assert cli.err == ""


def test_a_constraint_with_members_that_are_not_known_is_refused(tmp_path: Path, cli: CommandLine) -> None:
    for constraint in (CONSTRAINT | {"unless": "x"}, CONSTRAINT | {"value": {"threshold_units": 5, "currency": "JPY"}}):
        error = cli.fails(*ISSUE, "--authority-seed-file", tmp_path / "s", "--constraint", json.dumps(constraint))
        assert "has members that are not known" in error
    assert list(tmp_path.iterdir()) == []


def test_a_lifetime_of_more_than_a_year_is_refused(tmp_path: Path, cli: CommandLine, issue: Issue) -> None:
    error = cli.fails(*ISSUE, "--authority-seed-file", tmp_path / "s", "--ttl", 366 * 24 * 3600 + 1)
    assert "--ttl is longer than 31622400 seconds" in error
    error = cli.fails("--control-url", "http://127.0.0.1:9", *ISSUE, "--ttl", 10**9)
    assert "--ttl is longer than 999999999 seconds" in error
    token = issue("--authority-seed-file", tmp_path / "s", "--ttl", 366 * 24 * 3600)
    assert token["expires_at"] - token["issued_at"] == 366 * 24 * 3600


def test_a_capability_is_issued_to_one_holder_and_explained_for_another(
    tmp_path: Path, cli: CommandLine, issue: Issue
) -> None:
    alice, bob = (str(CallerIdentity.user(name).holder) for name in ("alice", "bob"))
    token = issue("--authority-seed-file", tmp_path / "seed", "--for-newer", "--holder", alice)
    assert [one["constraints"] for one in token["scope"]["grants"]] == [
        [{"type": "custom", "value": ["chio_holder", alice]}]
    ] * 2
    file = tmp_path / "token"
    file.write_text(json.dumps(token))
    check = ("explain", "--token", file, "--server", "http-sidecar-client", "--tool", "hello_write")
    assert "ok      holder:" in cli(*check, "--holder", alice)
    assert "unknown holder:" in cli(*check)
    assert "fail    holder: capability is bound to another holder" in cli(*check, "--holder", bob, status=1)


def test_a_subject_that_is_a_name_says_what_to_write(tmp_path: Path, cli: CommandLine) -> None:
    error = cli.misused(*ISSUE, "--authority-seed-file", tmp_path / "s", "--subject", "alice@example.com")
    assert "64 hex digits" in error
    assert "--holder" in error
    with pytest.raises(InvalidDocument, match=r"CallerIdentity\.user"):
        issue_capability(SigningKey.generate(), subject="alice@example.com", scope={}, ttl_seconds=1)


def test_the_key_of_an_authority_is_rotated(tmp_path: Path, cli: CommandLine, issue: Issue) -> None:
    place = ("--authority-db", tmp_path / "a.db")
    assert "there is no authority in" in cli.fails("trust", "rotate", *place)
    DatabaseAuthority(tmp_path / "a.db").close()
    first = issue(*place)["issuer"]
    printed = cli("trust", "rotate", *place)
    assert "CHIO_TRUSTED_ISSUER_KEYS" in cli.err
    second = issue(*place)["issuer"]
    assert printed == (f"public_key:  {second}\nformer_key:  {first}\ngeneration:  2\nbackend:     sqlite\n")
    found = json.loads(cli("trust", "rotate", "--json", *place))
    assert (found["former_key"], found["generation"], found["authority_backend"]) == (second, 3, "sqlite")


@pytest.mark.parametrize("command", [("trust", "rotate"), ISSUE])
def test_a_file_that_is_no_authority_does_not_become_one(
    tmp_path: Path, cli: CommandLine, command: tuple[str, ...]
) -> None:
    store, revoked, empty = write_store(tmp_path / "r", []), tmp_path / "revoked", tmp_path / "empty"
    RevocationStore(revoked).close()
    empty.touch(0o640)
    for file in (store, revoked, empty):
        before = (file.read_bytes(), file.stat().st_mode)
        assert f"there is no authority in {file}" in cli.fails(*command, "--authority-db", file)
        assert (file.read_bytes(), file.stat().st_mode) == before


@pytest.mark.parametrize("is_back", [True, False])
@pytest.mark.parametrize("rotates", [True, False])
def test_a_rotation_whose_response_is_lost_says_what_became_of_the_key(
    cli: CommandLine, rotates: bool, is_back: bool
) -> None:
    keys = ["a" * 64]

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if len(posts) == 1 and not is_back:
                return
            body = json.dumps({"publicKey": keys[-1], "generation": len(keys)}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            posts.append(self.path)
            if rotates:
                keys.append("b" * 64)

        def log_message(self, *_: object) -> None:
            pass

    posts: list[str] = []
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        rotate = ("trust", "rotate", "--control-url", f"http://127.0.0.1:{server.server_port}", "--control-token", "t")
        try:
            if rotates and is_back:
                assert json.loads(cli(*rotate, "--json")) == {
                    "public_key": "b" * 64,
                    "former_key": "a" * 64,
                    "generation": 2,
                    "authority_backend": "remote",
                }
            else:
                assert f"the key before this call was {'a' * 64}" in cli.fails(*rotate)
        finally:
            server.shutdown()
            thread.join()
    assert posts == ["/v1/authority"]


def test_a_rotation_without_an_authority_says_what_to_name(tmp_path: Path, cli: CommandLine) -> None:
    error = cli.fails("trust", "rotate", "--authority-seed-file", tmp_path / "seed")
    assert "trust rotate requires --authority-db <path> or --control-url" in error
    assert "--authority-seed-file give --control-url URL" in error
    assert list(tmp_path.iterdir()) == []
