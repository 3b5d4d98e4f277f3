"""The trust service on the database of the sidecars: one list of revocations, and a key that no sidecar can read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("psycopg")

import psycopg
from pydantic import SecretStr

from chio_core.capabilities import verify_capability
from chio_core.errors import ConfigurationError
from chio_sidecar.config import options_of_place
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import connect
from chio_sidecar.store.postgresql.schema import migrate
from chio_sidecar.trust.app import TrustConfig, TrustService, create_trust_app
from chio_sidecar.trust.authorities import DatabaseAuthority
from chio_sidecar.trust.stores import RevocationStore
from tests.sidecar.control_tools import CommandLine, evaluate, fetch, sidecars
from tests.sidecar.postgres_tools import ARCHIVE_ROLE, OWNER, ROLE, TRUST_ROLE, PostgresqlKit, Server
from tests.sidecar.sidecar_tools import KERNEL
from tests.sidecar.test_trust_service import AUTH, TOKEN, authority, get, issue, revoke


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


def test_the_commands_take_the_database(kit: PostgresqlKit, cli: CommandLine) -> None:
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
