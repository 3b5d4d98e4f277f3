"""The history of the keys that sign the logs of a database."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

pytest.importorskip("psycopg")

import psycopg

from chio_core.signing import SigningKey
from chio_sidecar.config import options_of_place
from chio_sidecar.records.fsck_postgresql import DatabaseInspection
from tests.sidecar.control_tools import CommandLine, sidecars
from tests.sidecar.postgres_tools import OWNER, ROLE, PostgresqlKit, Server
from tests.sidecar.sidecar_tools import KERNEL, STRANGER, Clock, decision
from tests.sidecar.store_conformance import entry, opened
from tests.support import run


@pytest.fixture
def kit(server: Server) -> PostgresqlKit:
    return PostgresqlKit(server)


def decide(kit: PostgresqlKit, key: SigningKey, *requests: str) -> None:
    """Let a sidecar with this key decide requests; it leaves its log to the next one."""
    with sidecars() as create:
        app = create(**options_of_place(kit.server.place(kit.database)), clock=Clock(), signing_key=key)
        for request in requests:
            run(decision(app, request_id=request, path="/\u2028"))


def history(kit: PostgresqlKit) -> list[tuple[object, ...]]:
    return kit.fetch("SELECT log_id, seq, kernel_key FROM chio.kernel_keys ORDER BY 1, 2")


def findings(kit: PostgresqlKit) -> list[str]:
    with closing(DatabaseInspection(kit.server.place(kit.database))) as database:
        return [finding.text for part in database.parts() for finding in part.findings()]


def test_a_log_has_the_row_from_which_on_each_key_signs(kit: PostgresqlKit, cli: CommandLine) -> None:
    decide(kit, KERNEL, "a", "b")
    decide(kit, KERNEL, "c")
    decide(kit, STRANGER, "d", "e")
    assert history(kit) == [(1, 1, KERNEL.public_hex), (1, 4, STRANGER.public_hex)]
    (log,) = json.loads(cli("store", "status", "--json", "--receipt-store", kit.url))["logs"]
    assert [(key["kernel_key"], key["first"]) for key in log["keys"]] == [row[:0:-1] for row in history(kit)]
    assert STRANGER.public_hex in cli("store", "status", "--receipt-store", kit.url)
    assert findings(kit) == []


def test_fsck_finds_a_receipt_that_another_key_signed_than_the_history_says(kit: PostgresqlKit) -> None:
    decide(kit, KERNEL, "a")
    decide(kit, STRANGER, "b")
    with kit.server.connect(kit.database, OWNER) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("DELETE FROM chio.kernel_keys WHERE seq = 2")
    (text,) = findings(kit)
    assert (
        text == f"it is signed by {STRANGER.public_hex}, and the history of keys has {KERNEL.public_hex} for this row"
    )


def test_rows_from_before_the_history_are_no_finding(kit: PostgresqlKit) -> None:
    decide(kit, KERNEL, "a", "b")
    with kit.server.connect(kit.database, OWNER) as owner:
        owner.execute("SET session_replication_role = replica")
        owner.execute("DELETE FROM chio.kernel_keys")
    decide(kit, STRANGER, "c")
    assert history(kit) == [(1, 3, STRANGER.public_hex)]
    assert findings(kit) == []


async def test_a_text_that_names_no_key_has_none_in_the_history(kit: PostgresqlKit) -> None:
    async with opened(kit) as store:
        await store.append(entry(1))
    assert history(kit) == []


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO kernel_keys (log_id, seq, kernel_key) VALUES (1, 9, 'x')",
        "UPDATE kernel_keys SET seq = 9",
        "DELETE FROM kernel_keys",
    ],
)
def test_a_sidecar_cannot_write_the_history_by_itself(kit: PostgresqlKit, sql: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        kit.execute(sql, ROLE)
