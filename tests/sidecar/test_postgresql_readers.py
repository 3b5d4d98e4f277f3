"""Everything that reads and administers a store does the same with a database as with a file."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("psycopg")

from fastapi import FastAPI

from chio_core.canonical import compact_json
from chio_core.errors import ConfigurationError
from chio_fastapi import add_chio
from chio_sidecar.config import SidecarConfig, options_of_place
from chio_sidecar.embedded import open_embedded
from chio_sidecar.records.archive import ReceiptFilter, open_archive
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.store import Invocation, NewReceipt
from chio_sidecar.store.place import Place, open_store, read_place
from chio_sidecar.store.postgresql.tables import SCHEMA_VERSION
from chio_sidecar.viewer import VIEWER_PATH
from tests.sidecar.control_tools import ROOT, CommandLine, fetch, key_file, sidecars
from tests.sidecar.postgres_tools import ARCHIVE_ROLE, OWNER, ROLE, PostgresqlKit, Server
from tests.sidecar.sidecar_tools import AUTHORITY, KERNEL, NOW, capability, decision
from tests.sidecar.store_conformance import charge
from tests.support import run
from tests.viewer.records import KEY, receipt

RECEIPTS = [
    *(receipt(number) for number in range(1, 30)),
    receipt(30, verdict={"verdict": "deny", "reason": "no"}, capability_id="cap-A", method="DELETE"),
    receipt(31, verdict={"verdict": "cancel"}, metadata={"chio_enforcement": {"mode": "observe"}}),
    receipt(32, route_pattern="/Ünicode/100%_'\"\0", capability_id="cap-B"),
    receipt(33, timestamp=2**64 - 1),
    receipt(34, capability_id="cap-C", caller_identity_hash="c" * 64),
    # The name of a member in another place, and a receipt that spells it with an escape: no index may miss these.
    receipt(
        35, capability_id="cap-C", metadata={"capability_id": "cap-D"}, verdict={"verdict": "deny", "reason": "deny"}
    ),
    receipt(36, metadata={"caller_identity_hash": "c" * 64}),
    receipt(37, route_pattern="/\u2028", capability_id="cap-C", caller_identity_hash="c" * 64),
]
SPELLED = [compact_json(one) for one in RECEIPTS]
SPELLED[-1] = SPELLED[-1].replace('"capability_id"', '"capability\\u005fid"').replace('"caller_', '"\\u0063aller_')
FILTERS = [
    ReceiptFilter(),
    ReceiptFilter(outcome="deny"),
    ReceiptFilter(outcome="cancelled"),
    ReceiptFilter(route="NICODE/100%_'"),
    ReceiptFilter(route="üni"),
    ReceiptFilter(since=NOW, until=2**62),
    ReceiptFilter(tool_server="http", tool_name="POST /things/3"),
    ReceiptFilter(tool_server="other"),
    ReceiptFilter(min_cost=0),
    ReceiptFilter(agent_subject="a"),
    ReceiptFilter(capability="cap-", capability_id="cap-B"),
    ReceiptFilter(caller="a", method="POST"),
    ReceiptFilter(route="' OR 1=1 --"),
    ReceiptFilter(capability_id="cap-A"),
    ReceiptFilter(capability_id="cap-C"),
    ReceiptFilter(capability_id="cap-D"),
    ReceiptFilter(caller="c" * 64),
    ReceiptFilter(caller="c" * 63),
    ReceiptFilter(caller="c" * 64, capability_id="cap-C", outcome="deny"),
]


def filled(place: Place) -> Place:
    async def append() -> None:
        store = open_store(place, clock=lambda: NOW)
        for one, text in zip(RECEIPTS, SPELLED, strict=True):
            await store.append(NewReceipt(one["id"], one["request_id"], "f", text))
        await store.revoke("cap-A")
        await store.close()

    run(append())
    return place


@pytest.fixture(scope="module")
def database(server: Server) -> Place:
    return filled(server.place(server.new_database()))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return filled(tmp_path_factory.mktemp("store") / "s.sqlite3")


FSCK = ("receipt", "fsck", "--json", "--receipt-store")

READINGS: dict[str, Callable[[Place, ReceiptFilter], Any]] = {
    "revocations": lambda place, wanted: with_archive(place, lambda archive: archive.revocations(10)),
    "rows": lambda place, wanted: with_archive(place, lambda archive: list(archive.rows(wanted))),
    "newest": lambda place, wanted: with_archive(
        place, lambda archive: list(archive.rows(wanted, newest_first=True, before=20, after=5))
    ),
    "page": lambda place, wanted: with_archive(place, lambda archive: asdict(archive.page(wanted, after=3, limit=4))),
    "count": lambda place, wanted: with_archive(place, lambda archive: archive.count(wanted, after=2)),
    "all": lambda place, wanted: with_archive(place, lambda archive: archive.count(wanted)),
    "list": lambda place, wanted: asdict(ReceiptWindow(place).list(wanted, limit=10)),
    "matches": lambda place, wanted: asdict(ReceiptWindow(place).count(wanted)),
    "tally": lambda place, wanted: asdict(ReceiptWindow(place).tally(wanted)),
    "texts": lambda place, wanted: asdict(ReceiptWindow(place).texts(wanted, limit=5)),
}


def with_archive(place: Place, read: Callable[[Any], Any]) -> Any:
    with open_archive(place) as archive:
        return read(archive)


@pytest.mark.parametrize("reading", READINGS)
def test_every_filter_finds_in_a_database_what_it_finds_in_a_file(reading: str, file: Place, database: Place) -> None:
    for wanted in FILTERS:
        assert READINGS[reading](database, wanted) == READINGS[reading](file, wanted), wanted


def test_an_archive_looks_up_the_same(file: Place, database: Place) -> None:
    def facts(archive: Any) -> Any:
        one = archive.get("receipt-00005")
        return (
            archive.first,
            archive.last,
            one,
            archive.get_by_request_id("request-00005") == one,
            archive.get("unknown"),
            archive.stored_text("receipt-00005", most=20),
            archive.is_revoked("cap-A"),
            archive.is_revoked("cap-B"),
            archive.invocations("cap-A", 0),
            archive.archived(),
        )

    assert with_archive(database, facts) == with_archive(file, facts)


@pytest.fixture
def kit(server: Server) -> PostgresqlKit:
    return PostgresqlKit(server)


@pytest.fixture
def url(kit: PostgresqlKit, tmp_path: Path) -> str:
    """The URL of a database that names a key."""
    key = key_file(tmp_path / "own.key")
    return f"{kit.url}&key={key}"


def test_the_commands_work_with_a_database(url: str, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIO_SIDECAR_URL", f"embedded:{url}")
    cli("capability", "issue", "--server", "s", "--tool", "t", "--receipt-store", url)
    token = json.loads(cli.out)
    assert token["issuer"] == KERNEL.public_hex

    async def decide() -> list[str]:
        embedded = open_embedded(url, environ={})
        found = [await decision(embedded.app, request_id=name, method=name) for name in ("GET", "POST")]
        await embedded.close()
        return [one["receipt"]["id"] for one in found]

    allowed, refused = run(decide())
    assert [json.loads(line)["id"] for line in cli("receipt", "list").splitlines()] == [allowed, refused]
    assert json.loads(cli("receipt", "list", "--receipt-store", url, "--outcome", "deny"))["id"] == refused
    assert json.loads(cli("receipt", "show", allowed, "--json"))["kernel_key"] == KERNEL.public_hex
    assert "deny      1" in cli("receipt", "verify", "--receipt-db", url, "--trusted-key", KERNEL.public_hex)
    assert "would have refused 1 of 2" in cli("receipt", "diff", "--all", status=3)
    command = json.loads(cli("explain", refused, "--json"))["command"]
    assert json.loads(cli(*shlex.split(command)[1:], "--json"))["issuer"] == KERNEL.public_hex
    assert "newly_revoked: true" in cli("trust", "revoke", "--capability-id", token["id"], "--receipt-db", url)
    assert "revoked:       true" in cli("trust", "status", "--capability-id", token["id"], "--receipt-db", url)
    assert '"approvals":[]' in cli("approval", "list", "--receipt-store", url, "--json").replace(" ", "")
    assert "this command works with a store in a file" in cli.fails("receipt", "backup", "x", "--receipt-db", url)


def test_an_application_with_an_embedded_sidecar_on_a_database_serves_requests(url: str) -> None:
    app = FastAPI()
    app.get("/")(lambda: 1)
    add_chio(app, sidecar_url=f"embedded:{url}")

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
            response = await client.get("/")
        await app.state.chio_client.aclose()
        return response

    response = asyncio.run(get())
    assert response.status_code == 200
    with open_archive(read_place(url)) as archive:
        assert archive.get(response.headers["x-chio-receipt"]) is not None


def test_two_sidecars_with_keys_of_their_own_share_revocations_and_receipts(kit: PostgresqlKit) -> None:
    place = kit.server.place(kit.database)
    own = {**options_of_place(place), "clock": lambda: float(NOW), "trusted_issuers": {AUTHORITY.public_hex}}

    async def go() -> list[str]:
        token = capability()
        first = await decision(one, token, method="POST", request_id="a")
        again = await decision(two, token, method="POST", request_id="a")
        assert again["receipt"] == first["receipt"]  # whichever sidecar has stored it
        await one.state.sidecar.store.revoke(token.id)
        late = await decision(two, token, method="POST", request_id="b")
        return [found["verdict"]["verdict"] for found in (first, again, late)]

    with sidecars() as create:
        one, two = create(**own, signing_key=KERNEL), create(**own, signing_key=KEY)
        assert run(go()) == ["allow", "allow", "deny"]
        status = fetch(two, "GET", f"{VIEWER_PATH}api/status").json()
        assert status["store"] == place.shown
        assert len(fetch(two, "GET", f"{VIEWER_PATH}api/receipts").json()["rows"]) == 2


def test_a_sidecar_on_a_database_needs_the_file_of_its_key(kit: PostgresqlKit) -> None:
    with pytest.raises(ConfigurationError, match="name its file"):
        SidecarConfig(**options_of_place(kit.server.place(kit.database)))
    with pytest.raises(ConfigurationError, match="give store_path, or open_store"):
        SidecarConfig()


def test_a_database_is_migrated_looked_at_and_copied(
    server: Server, cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The database and its roles as docs/postgresql.md makes them; the role of the sidecars is there already.
    page = (ROOT / "docs" / "postgresql.md").read_text()
    statements = page.partition("```sql\n")[2].partition("```")[0].splitlines()
    with server.connect("postgres") as admin:
        for statement in statements:
            if statement not in [f"CREATE ROLE {role} LOGIN;" for role in (ROLE, OWNER, ARCHIVE_ROLE)]:
                admin.execute(statement)
    kit = PostgresqlKit(server, "chio")
    owner = server.url("chio", OWNER)
    assert f"store migrate --receipt-store postgresql://{OWNER}@db.example/chio --role {ROLE}\n" in page
    assert "store migrate" in cli.fails("receipt", "list", "--receipt-db", kit.url)
    assert "store migrate" in cli.fails("store", "status", "--receipt-store", kit.url)
    assert json.loads(cli("store", "migrate", "--receipt-store", owner, "--json")) == {
        "before": 0,
        "version": SCHEMA_VERSION,
        "role": ROLE,
        "archive_role": None,
        "erase_role": None,
        "trust_role": None,
    }
    assert f"version   {SCHEMA_VERSION}\n" in cli("store", "migrate", "--receipt-store", owner)
    filled(server.place("chio"))
    status = json.loads(cli("store", "status", "--receipt-store", kit.url, "--json"))
    assert [(log["rows"], log["is_held"]) for log in status["logs"]] == [(len(RECEIPTS), False)]
    assert "migrate as the owner" in cli.fails("store", "migrate", "--receipt-store", kit.url)
    target = tmp_path / "copy"
    monkeypatch.setenv("PATH", f"{server.folder_of_programs}:{os.environ['PATH']}")
    if server.has("pg_dump"):
        cli("store", "backup", target, "--receipt-store", kit.url)
        assert target.read_bytes().startswith(b"PGDMP")
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert "exists" in cli.fails("store", "backup", target, "--receipt-store", kit.url)
    assert "is a file" in cli.fails("store", "status", "--receipt-store", "a.sqlite3")


@pytest.fixture
def audited(kit: PostgresqlKit, tmp_path: Path) -> PostgresqlKit:
    """A database with two logs, and records of every kind."""
    token = capability()
    own = {**options_of_place(kit.server.place(kit.database)), "trusted_issuers": {AUTHORITY.public_hex}}

    async def fill(one: Any, two: Any) -> None:
        for app, name in ((one, "a"), (two, "b"), (one, "c")):
            await decision(app, token, method="POST", request_id=name)
        entry = NewReceipt(
            "x", "x", "f", compact_json(receipt(1) | {"id": "x"}), obligations=(charge(5), Invocation("cap-1", 0, 5))
        )
        await one.state.sidecar.store.append(entry)

    with sidecars() as create:
        run(fill(*(create(**own, clock=lambda: float(NOW), signing_key=key) for key in (KERNEL, KEY))))
    return kit


EDITS = {
    "": "signature",  # the receipt with a request id of its own, from the fixture
    "UPDATE http_receipts SET fingerprint = 'other' WHERE request_id = 'a'": "chain",
    "DELETE FROM http_receipts WHERE request_id = 'a'": "gap",
    "DELETE FROM http_receipts WHERE request_id = 'x'": "end",
    "UPDATE logs SET digest = 'other' WHERE log_id = 2": "end",
    "DELETE FROM logs WHERE log_id = 2": "gap",
    "UPDATE budget_charges SET total = 1": "record",
    "UPDATE capability_invocations SET ordinal = 2": "record",
    "ALTER TABLE http_receipts DISABLE TRIGGER http_receipts_append_only": "schema",
    "DROP TRIGGER logs_only_on ON logs": "schema",
}


@pytest.mark.parametrize("edit", EDITS)
def test_fsck_finds_what_the_owner_of_the_database_has_changed(
    audited: PostgresqlKit, cli: CommandLine, edit: str
) -> None:
    before = [json.loads(line) for line in cli(*FSCK, audited.url, status=1).splitlines()]
    assert [(one["kind"], one["row"]) for one in before if "kind" in one] == [("signature", 3)]
    if edit:
        with audited.server.connect(audited.database) as owner:
            owner.execute("SET session_replication_role = replica; SET search_path = chio")
            owner.execute(edit)
    after = [json.loads(line) for line in cli(*FSCK, audited.url, status=1).splitlines()]
    assert EDITS[edit] in {one["kind"] for one in after if one not in before and "kind" in one} or not edit
    assert cli("receipt", "fsck", "--receipt-store", audited.url, status=1).count("file      ") >= 2


def test_fsck_knows_the_heads_of_all_logs(audited: PostgresqlKit, cli: CommandLine) -> None:
    heads = [
        log["head"] for log in json.loads(cli("store", "status", "--receipt-store", audited.url, "--json"))["logs"]
    ]
    assert len(heads) == 2
    for head, kinds in ((heads[0], set()), (heads[1], set()), ("0" * 64, {"head"})):
        lines = [json.loads(line) for line in cli(*FSCK, audited.url, "--head", head, status=1).splitlines()]
        assert {line["kind"] for line in lines if "kind" in line} - {"signature"} == kinds
