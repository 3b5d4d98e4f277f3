"""The trust service on the database of the sidecars: one list of revocations, and a key that no sidecar can read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg")

import psycopg
from pydantic import SecretStr

from chio_core.capabilities import issue_capability, sign_link, verify_capability
from chio_core.errors import ConfigurationError
from chio_core.signing import SigningKey
from chio_sidecar.cli import build_parser
from chio_sidecar.cli.api_protect import authority_options
from chio_sidecar.config import options_of_place
from chio_sidecar.embedded import open_embedded
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import connect
from chio_sidecar.store.postgresql.schema import migrate
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from chio_sidecar.trust.authorities import DatabaseAuthority
from chio_sidecar.trust.stores import RevocationStore
from tests.sidecar.control_tools import GRANT, ZEROS, CommandLine, evaluate, evaluation, fetch, sidecars
from tests.sidecar.postgres_tools import ARCHIVE_ROLE, OWNER, ROLE, TRUST_ROLE, PostgresqlKit, Server
from tests.sidecar.sidecar_tools import KERNEL
from tests.sidecar.test_trust_service import AUTH, TOKEN, authority, get, issue, revoke
from tests.support import run


@pytest.fixture
def kit(server: Server) -> PostgresqlKit:
    return PostgresqlKit(server)


@pytest.fixture
def place(kit: PostgresqlKit) -> DatabasePlace:
    return kit.server.place(kit.database, TRUST_ROLE)


@pytest.fixture
def app(place: DatabasePlace) -> Iterator[Any]:
    service = TrustService(
        TrustConfig(service_token=SecretStr(TOKEN), authority_db=place, revocation_db=place, receipt_db=place)
    )
    yield create_trust_app(service)
    service.close()


def test_what_the_service_revokes_every_sidecar_on_the_database_refuses(app: Any, kit: PostgresqlKit) -> None:
    keys = authority(app)["trustedPublicKeys"]
    assert authority(app)["backend"] == "postgresql"
    token = issue(app)
    verify_capability(token, trusted_issuers=set(keys), now=int(time.time()))
    own = options_of_place(kit.server.place(kit.database))
    with sidecars() as create:
        sidecar = create(**own, signing_key=KERNEL, trusted_issuers=frozenset(keys))
        assert evaluate(sidecar, token, request_id="a")["verdict"]["verdict"] == "allow"
        assert revoke(app, token["id"]) == {"capabilityId": token["id"], "revoked": True, "newlyRevoked": True}
        assert evaluate(sidecar, token, request_id="b")["verdict"]["reason"] == "capability token has been revoked"
    listed = get(app, f"/v1/revocations?capabilityId={token['id']}")
    assert (listed["backend"], listed["revoked"], listed["count"]) == ("postgresql", True, 1)
    assert get(app, "/v1/receipts/query")["totalCount"] == 2


UNTRUSTED = "capability issuer is not trusted"


def reason(answer: dict[str, Any]) -> Any:
    return answer["verdict"].get("reason")


def test_a_sidecar_on_the_database_accepts_what_a_new_key_has_signed_at_once(app: Any, kit: PostgresqlKit) -> None:
    url = kit.server.url(kit.database)
    with sidecars() as create:
        following = create(**options_of_place(DatabasePlace.parse(url)), signing_key=KERNEL, follow_authority=True)
        first = issue(app)
        assert reason(evaluate(following, first, request_id="a")) is None
        for number in range(3):  # no pause between two rotations
            fetch(app, "POST", "/v1/authority", headers=AUTH)
            assert reason(evaluate(following, issue(app), request_id=f"b{number}")) is None
        assert reason(evaluate(following, first, request_id="c")) is None
        stranger = issue_capability(SigningKey.generate(), subject=ZEROS, scope={"grants": [GRANT]}, ttl_seconds=60)
        assert reason(evaluate(following, stranger.to_wire(), request_id="d")) == UNTRUSTED


def test_a_withdrawn_key_is_refused_in_the_transaction_that_stores_the_receipt(
    app: Any, kit: PostgresqlKit, place: DatabasePlace, cli: CommandLine
) -> None:
    with sidecars() as create:
        following = create(
            **options_of_place(kit.server.place(kit.database)), signing_key=KERNEL, follow_authority=True
        )
        old = issue(app)
        fetch(app, "POST", "/v1/authority", headers=AUTH)
        new = issue(app)
        assert [reason(evaluate(following, one, request_id=one["id"])) for one in (old, new)] == [None, None]
        cli("trust", "revoke", "--issuer", old["issuer"], "--revocation-db", place.url)
        assert reason(evaluate(following, old, request_id="b")) == UNTRUSTED
        assert reason(evaluate(following, new, request_id="c")) is None
        store = create(**options_of_place(kit.server.place(kit.database)), signing_key=KERNEL).state.sidecar.store
        assert run(store.authority_keys()) == {new["issuer"]}
        # One that starts now, and one that pins the key.
        for options in ({"follow_authority": True}, {"trusted_issuers": {old["issuer"]}}):
            another = create(**options_of_place(kit.server.place(kit.database)), signing_key=KERNEL, **options)
            assert reason(evaluate(another, old, request_id=f"d{options}")) == UNTRUSTED
            found = fetch(another, "POST", "/v1/capabilities/validate", json=old).json()
            assert (found["valid"], found["reason"]) == (False, UNTRUSTED)
    assert authority(app)["trustedPublicKeys"] == [new["issuer"]]


def test_a_delegation_of_a_withdrawn_key_is_refused_in_that_transaction_too(
    kit: PostgresqlKit, place: DatabasePlace, cli: CommandLine
) -> None:
    key, now = SigningKey.generate(), int(time.time())
    link = sign_link(key, capability_id="cap-0", delegatee=KERNEL.public_hex, timestamp=now - 60)
    scope = {"grants": [GRANT]}
    token = issue_capability(KERNEL, subject=ZEROS, scope=scope, ttl_seconds=60, delegation_chain=[link]).to_wire()
    with sidecars() as create:
        sidecar = create(**options_of_place(kit.server.place(kit.database)), signing_key=KERNEL)
        assert reason(evaluate(sidecar, token, request_id="a")) is None
        cli("trust", "revoke", "--issuer", key.public_hex, "--revocation-db", place.url)
        assert reason(evaluate(sidecar, token, request_id="b")) == UNTRUSTED
        assert fetch(sidecar, "POST", "/v1/capabilities/validate", json=token).json()["reason"] == UNTRUSTED


def test_pinned_issuers_mean_that_the_authority_of_the_database_is_not_followed(
    app: Any, kit: PostgresqlKit, tmp_path: Path
) -> None:
    token, url = issue(app), f"{kit.url}&key={tmp_path / 'a.key'}"
    pinned = {"CHIO_TRUSTED_ISSUER_KEY": KERNEL.public_hex}
    for environ, expected in ((pinned, UNTRUSTED), ({}, None)):
        embedded = open_embedded(url, environ=environ)
        assert reason(evaluate(embedded.app, token, request_id=f"{expected}")) == expected
        asyncio.run(embedded.close())


@pytest.mark.parametrize(("pinned", "follows"), [(None, True), (KERNEL.public_hex, False)])
def test_api_protect_follows_the_authority_of_its_database_unless_issuers_are_pinned(
    kit: PostgresqlKit, monkeypatch: pytest.MonkeyPatch, pinned: str | None, follows: bool
) -> None:
    if pinned is not None:
        monkeypatch.setenv("CHIO_TRUSTED_ISSUER_KEYS", pinned)
    place = DatabasePlace.parse(f"{kit.url}&key=a.key")
    args = build_parser().parse_args(["api", "protect", "--upstream", "http://127.0.0.1:1", "--spec", "examples/x"])
    args.spec = None
    assert authority_options(args, place)["follow_authority"] is follows
    assert authority_options(args, Path("r.sqlite3"))["follow_authority"] is False


def test_without_the_keys_nothing_is_decided_about_an_unknown_issuer(app: Any, kit: PostgresqlKit) -> None:
    token = issue(app)
    kit.execute(f"REVOKE SELECT ON chio.authority_trusted_keys FROM {ROLE}", OWNER)
    with sidecars() as create:
        following = create(
            **options_of_place(kit.server.place(kit.database)), signing_key=KERNEL, follow_authority=True
        )
        headers = {"X-Chio-Capability": json.dumps(token)}
        response = fetch(following, "POST", "/chio/evaluate", json=evaluation(), headers=headers)
        assert (response.status_code, response.json()["error"]) == (500, "chio_receipt_persistence_failed")
        assert kit.fetch("SELECT count(*) FROM chio.http_receipts") == [(0,)]


def test_a_text_that_is_no_key_stops_no_evaluation(app: Any, kit: PostgresqlKit) -> None:
    token = issue(app)
    kit.execute("INSERT INTO authority_trusted_keys VALUES ('no key', 99, 0)", TRUST_ROLE)
    with sidecars() as create:
        following = create(
            **options_of_place(kit.server.place(kit.database)), signing_key=KERNEL, follow_authority=True
        )
        assert reason(evaluate(following, token, request_id="a")) is None


def test_an_explanation_knows_the_keys_of_the_database(
    app: Any, kit: PostgresqlKit, place: DatabasePlace, cli: CommandLine, tmp_path: Path
) -> None:
    token = issue(app)
    (tmp_path / "token").write_text(json.dumps(token))
    trial = ("explain", "--token", tmp_path / "token", "--receipt-store", kit.url)
    assert f"issued by {token['issuer']}, which is trusted" in cli(*trial)
    cli("trust", "revoke", "--issuer", token["issuer"], "--revocation-db", place.url)
    assert f"capability issuer is not trusted: {token['issuer']} was withdrawn" in cli(*trial, status=1)


def test_a_rotation_keeps_trusting_the_old_key_in_every_process(app: Any, place: DatabasePlace) -> None:
    before = authority(app)
    other = DatabaseAuthority(place)
    other.rotate()
    other.close()
    after = authority(app)
    assert after["trustedPublicKeys"] == [before["publicKey"], after["publicKey"]]
    assert issue(app)["issuer"] == after["publicKey"]


def test_an_authority_whose_key_was_not_in_the_copy_of_a_database_gets_another_one(
    kit: PostgresqlKit, place: DatabasePlace
) -> None:
    one = DatabaseAuthority(place)
    before = one.status()
    one.close()
    kit.execute("DROP SCHEMA chio_trust CASCADE", OWNER)
    with pytest.raises(ConfigurationError, match="store migrate --trust-role"):
        DatabaseAuthority(place)
    with closing(connect(kit.server.place(kit.database, OWNER), seconds=10)) as owner:
        migrate(owner, ROLE, trust_role=TRUST_ROLE)
    two = DatabaseAuthority(place)
    assert two.status().generation == 2
    assert two.status().trusted_keys == (before.public_key, two.status().public_key)
    two.close()


@pytest.mark.parametrize("command", [("trust", "rotate"), ("capability", "issue", "--server", "s", "--tool", "t")])
def test_a_database_without_an_authority_does_not_get_one_by_a_command(
    kit: PostgresqlKit, cli: CommandLine, command: tuple[str, ...]
) -> None:
    error = cli.fails("--authority-db", kit.server.url(kit.database, TRUST_ROLE), *command)
    assert "there is no authority in" in error
    assert kit.fetch("SELECT count(*) FROM chio.authority_trusted_keys") == [(0,)]


def test_the_commands_take_the_database(kit: PostgresqlKit, place: DatabasePlace, cli: CommandLine) -> None:
    DatabaseAuthority(place).close()
    url = kit.server.url(kit.database, TRUST_ROLE)
    token = json.loads(cli("--authority-db", url, "capability", "issue", "--server", "s", "--tool", "t"))
    found = json.loads(cli("--revocation-db", url, "trust", "revoke", "--capability-id", token["id"], "--json"))
    assert found == {
        "capability_id": token["id"],
        "revoked": True,
        "newly_revoked": True,
        "revocation_backend": "postgresql",
    }
    assert "revoked:       true" in cli("trust", "status", "--capability-id", token["id"], "--receipt-store", kit.url)
    assert "backend:       postgresql" in cli("trust", "status", "--capability-id", "x", "--receipt-store", kit.url)
    error = cli.fails("--authority-db", kit.url, "capability", "issue", "--server", "s", "--tool", "t")
    assert "store migrate --trust-role" in error


def test_a_withdrawn_key_of_the_database_issues_nothing_until_it_is_rotated(
    kit: PostgresqlKit, place: DatabasePlace, cli: CommandLine
) -> None:
    DatabaseAuthority(place).close()
    url = kit.server.url(kit.database, TRUST_ROLE)
    issue = ("--authority-db", url, "capability", "issue", "--server", "s", "--tool", "t")
    key = json.loads(cli(*issue))["issuer"]
    cli("--revocation-db", url, "trust", "revoke", "--issuer", key)
    error = cli.fails(*issue)
    assert f"the key {key} was withdrawn" in error
    assert "chio-sidecar trust rotate" in error
    found = json.loads(cli("--authority-db", url, "trust", "rotate", "--json"))
    assert (found["former_key"], found["authority_backend"]) == (key, "postgresql")
    assert json.loads(cli(*issue))["issuer"] == found["public_key"]


SECRET = ["SELECT seed_hex FROM chio_trust.authority_state", "SELECT * FROM chio_trust.authority_state"]
CHANGES = [
    "INSERT INTO authority_trusted_keys VALUES ('x', 9, 9)",
    "DELETE FROM authority_trusted_keys",
    "UPDATE authority_trusted_keys SET generation = 9",
]
TRUST_CHANGES = [
    "DELETE FROM revoked_capabilities",
    "UPDATE revoked_capabilities SET revoked_at = 0",
    "DELETE FROM chio_trust.authority_state",
    "INSERT INTO budget_charges VALUES ('a', 1, 1, 1, 'x')",
    "SELECT chio.claim(1, 1, 'x', 1)",
    "DELETE FROM http_receipts",
]


@pytest.mark.parametrize(
    ("role", "sql"),
    [
        *((role, sql) for role in (ROLE, ARCHIVE_ROLE) for sql in (*SECRET, *CHANGES)),
        *((TRUST_ROLE, sql) for sql in (*CHANGES[1:], *TRUST_CHANGES)),
    ],
)
def test_a_role_has_no_right_that_it_does_not_need(kit: PostgresqlKit, role: str, sql: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        kit.execute(sql, role)


def test_a_database_that_is_gone_is_answered_with_500_and_used_again_when_it_is_back(
    app: Any, kit: PostgresqlKit
) -> None:
    key = authority(app)["publicKey"]
    kit.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chio-sidecar'")
    assert authority(app)["publicKey"] == key  # over another connection
    with kit.server.connect("postgres") as admin:
        admin.execute(f"ALTER DATABASE {kit.database} ALLOW_CONNECTIONS false")
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chio-sidecar'")
        response = fetch(app, "GET", "/v1/authority", headers=AUTH)
        assert response.status_code == 500
        assert "a store of the trust service failed" in response.json()["error"]
        assert fetch(app, "GET", "/health").json()["authority"]["available"] is False
        admin.execute(f"ALTER DATABASE {kit.database} ALLOW_CONNECTIONS true")
    assert authority(app)["publicKey"] == key


def test_a_database_without_the_tables_or_the_rights_names_the_command(server: Server, kit: PostgresqlKit) -> None:
    with pytest.raises(ConfigurationError, match="store migrate"):
        RevocationStore(server.place("postgres", TRUST_ROLE))
    with pytest.raises(ConfigurationError, match=r"--authority-db.*store migrate --trust-role"):
        DatabaseAuthority(kit.server.place(kit.database))
