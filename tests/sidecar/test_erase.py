"""`receipt erase`: the content of a receipt goes, and every chain and every account stays, in a file and a database."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import compact_json
from chio_core.errors import ConfigurationError
from chio_core.receipts import signed_bytes
from chio_core.signing import SigningKey
from chio_sidecar.policy.approvals import APPROVAL_ID
from chio_sidecar.policy.obligations import read_first
from chio_sidecar.policy.rules import Refused, Rule
from chio_sidecar.records.archive import ReceiptFilter
from chio_sidecar.records.listing import ReceiptWindow
from chio_sidecar.store.erase import signer
from chio_sidecar.store.hash_chain import FIRST, MEMBERS, link
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.statements import Erasure
from chio_sidecar.viewer.explained import Explainer, server_report
from tests.sidecar.approval_tools import pay, verdict
from tests.sidecar.control_tools import CommandLine, key_file
from tests.sidecar.erase_tools import DatabaseWorld, FileWorld, World, fill, kill_while_erasing
from tests.sidecar.fsck_tools import older, select
from tests.sidecar.sidecar_tools import KERNEL, NOW, SERVER, STRANGER, TOOL, capability, decision, evaluate, grant
from tests.sidecar.test_budgets import demand, spend
from tests.support import run

REASON = "Art. 17, request 4711"
ERASED = ("req-paid", "req-spent-1", "limited-1", "plain-2")
"""By request id: an allow by an approval, one with a charge, one with a limited use, one of its caller's own path."""


@pytest.fixture(params=["file", "database"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    if request.param == "file":
        return FileWorld(tmp_path)
    pytest.importorskip("psycopg")
    return DatabaseWorld(tmp_path, request.getfixturevalue("server"))


def place_of(world: World) -> Any:
    return world.store if isinstance(world.store, Path) else DatabasePlace.parse(str(world.store))


def erase(cli: CommandLine, store: object, *ids: str, status: int = 0) -> str:
    return cli("receipt", "erase", "--receipt-store", store, *ids, "--reason", REASON, "--yes", status=status)


def fsck(cli: CommandLine, store: object, *options: object, status: int | None = 0) -> dict[str, Any]:
    """Return the findings, and the summary of the first file or log."""
    out = cli("receipt", "fsck", "--json", "--receipt-store", store, *options, status=status)
    lines = [json.loads(line) for line in out.splitlines()]
    return next(one for one in lines if "rows" in one) | {"findings": [line for line in lines if "kind" in line]}


TRUSTED = ("--trusted-key", KERNEL.public_hex)


def test_what_is_left_of_an_erased_receipt_is_a_signed_record_and_every_chain_verifies(
    world: World, cli: CommandLine, tmp_path: Path
) -> None:
    ids = fill(world)
    before = {row[3]: row for row in world.rows()}
    head = fsck(cli, world.store, *TRUSTED)["head"]

    out = erase(cli, world.store, *(ids[name] for name in ERASED))
    assert [line.split()[:2] for line in out.splitlines()[:4]] == [["erased", f"{ids[name]},"] for name in ERASED]

    for name, row in {row[3]: row for row in world.rows()}.items():
        number, receipt_id, text, *_, digest = before[name]
        if name not in ERASED:
            assert row == before[name]
            continue
        assert (row[0], row[1], row[4], *row[5:]) == (number, receipt_id, "", *before[name][5:])
        said = Erasure.read(row[2])
        assert (said.id, said.request_id, said.row, said.digest) == (receipt_id, name, number, digest)
        assert (said.reason, said.kernel_key, said.timestamp) == (REASON, KERNEL.public_hex, NOW)
        receipt = json.loads(text)
        for member in ("caller_identity_hash", "content_hash", "route_pattern", "policy_hash", "signature"):
            assert receipt[member] not in row[2]
    for options in (TRUSTED, (*TRUSTED, "--head", head), ()):
        found = fsck(cli, world.store, *options)
        assert found["covered_from"] == (1 if "--head" in options else None)
        assert (found["findings"], found["head"], found["erased"]) == ([], head, len(ERASED))
        assert {one["id"] for one in found["erasures"]} == {ids[name] for name in ERASED}
        assert all(one["chained"] and one["reason"] == REASON for one in found["erasures"])
    folder = tmp_path / "export"
    cli("receipt", "export", "--receipt-store", world.store, folder)
    assert "erased    4\n" in cli("receipt", "verify", folder, *TRUSTED)
    assert "INVALID erasure" in cli("receipt", "verify", folder, "--trusted-key", STRANGER.public_hex, status=1)


def test_every_reader_shows_that_a_receipt_was_erased_and_why(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    name = ids["req-paid"]
    erase(cli, world.store, name)
    own = ("--receipt-store", world.store)

    shown = json.loads(cli("receipt", "show", *own, name, "--json", "--verify", *TRUSTED))
    assert shown["reason"] == REASON
    assert f"by {KERNEL.public_hex} for: {REASON}" in cli.err
    cli("receipt", "show", *own, name, "--verify", "--trusted-key", STRANGER.public_hex, status=1)
    table = cli("receipt", "list", *own, "--format", "human", "--oldest-first")
    assert any("erased" in line and REASON in line and name in line for line in table.splitlines())
    listed = [json.loads(line) for line in cli("receipt", "list", *own).splitlines()]
    assert [one["id"] for one in listed] == [row[1] for row in world.rows()]
    assert name not in cli("receipt", "list", *own, "--outcome", "allow")
    assert name in cli("receipt", "list", *own, "--since", str(NOW))
    assert "erased    1\n" in cli("receipt", "verify", *own, *TRUSTED)
    assert "was erased on 20" in cli.fails("explain", *own, name)
    observed = json.loads(cli("receipt", "diff", *own, "--all", "--json", status=None))
    assert observed["observed"] == len(listed) - 1

    window = ReceiptWindow(place_of(world))
    rows = {row["id"]: row for row in window.list(ReceiptFilter()).rows}
    assert (rows[name]["verdict"], rows[name].get("damaged")) == ("erased", None)
    tally = window.tally(ReceiptFilter())
    assert sum(bar.get("erased", 0) for bar in tally.bars) == 1
    assert all("damaged" not in route["verdicts"] and "erased" not in route["verdicts"] for route in tally.routes)
    opened = window.open(name)
    assert opened is not None
    report = server_report(opened.text, frozenset({KERNEL.public_hex}))
    assert (report["valid"], report["signer_is_own"]) == (True, True)
    assert Explainer(None)(opened.text, report) is None
    forged = server_report(opened.text.replace(REASON, "other"), frozenset({KERNEL.public_hex}))
    assert (forged["valid"], forged["rule"]) == (False, "erasure")


def test_a_repeated_request_is_a_conflict_and_nothing_is_spent_or_used_twice(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    approval = json.loads(next(row[2] for row in world.rows() if row[3] == "req-paid"))["metadata"][APPROVAL_ID]
    erase(cli, world.store, *ids.values())
    limited = capability(name="cap-limited", grants=[grant(max_invocations=2)])

    async def go_on(app: Any) -> None:
        again = await evaluate(app, request_id="plain-2", path="/people/ada-2")
        assert (again.status, again.document["error"]) == (409, "chio_request_id_conflict")
        assert (await evaluate(app, limited, tool_server=SERVER, tool_name=TOOL, request_id="limited-0")).status == 409
        assert verdict(await spend(app, "more", demand(1, max_invocations=3))) == "deny"  # of three charges, three
        assert verdict(await decision(app, limited, tool_server=SERVER, tool_name=TOOL, request_id="more")) == "deny"
        assert verdict(await pay(app, "twice", approval)) == "deny"
        assert verdict(await decision(app, request_id="new")) == "allow"
        stored = await app.state.sidecar.store.get(ids["plain-2"])
        first = read_first(ids["plain-2"], stored, KERNEL.public_hex)
        assert isinstance(first, Refused)
        assert first.rule is Rule.FOLLOW_UP_NO_ALLOW

    with world.app() as app:
        run(go_on(app))
    found = fsck(cli, world.store, *TRUSTED)
    assert (found["findings"], found["erased"], found["rows"]) == ([], len(ids), len(ids) + 4)


def resigned(said: Erasure, key: SigningKey = KERNEL, **changes: Any) -> str:
    return replace(said, kernel_key=key.public_hex, **changes).signed_by(key)


def record(row: tuple[Any, ...], key: str) -> Erasure:
    return Erasure(row[1], row[3], NOW, row[5], row[0], "", "", "", row[6], 2, NOW, "", key)


FORGERIES: dict[str, tuple[Any, str]] = {
    "no signature": (lambda said: json.dumps(json.loads(said.signed_by(KERNEL)) | {"signature": ""}), "erasure"),
    "another reason": (lambda said: said.signed_by(KERNEL).replace(REASON, "none"), "erasure"),
    "a member more": (lambda said: said.signed_by(KERNEL)[:-1] + ',"caller":"ada"}', "erasure"),
    "a stranger's key": (lambda said: resigned(said, STRANGER), "erasure"),
    "another content": (lambda said: resigned(said, content="0" * 64, previous="0" * 64), "chain"),
    "another row's record": (lambda said: resigned(said, row=said.row + 1), "erasure"),
    "another receipt's record": (lambda said: resigned(said, id="other"), "erasure"),
    "the earlier form, and other rows before": (lambda said: resigned(said, form=1, previous="0" * 64), "chain"),
    "no record": (lambda said: "{}", "signature"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_erasure_is_found(kind: str, world: World, cli: CommandLine) -> None:
    ids = fill(world)
    erase(cli, world.store, ids["plain-1"])
    (row,) = [row for row in world.rows() if row[3] == "plain-1"]
    make, found = FORGERIES[kind]
    text = make(Erasure.read(row[2])).replace('": ', '":').replace(', "', ',"')
    world.tamper(f"UPDATE http_receipts SET receipt_json = '{text}' WHERE seq = {row[0]}")
    for options in (TRUSTED, ()):
        kinds = {(one["kind"], one["row"]) for one in fsck(cli, world.store, *options, status=1)["findings"]}
        assert (found, row[0]) in kinds
        assert {number for _, number in kinds} == {row[0]}


def rewritten(world: World, numbers: range) -> str:
    """Sign other receipts in these rows, with the key, and compute their chain; return the digest of the last one."""
    previous = FIRST
    for number, receipt_id, text, *rest, _ in world.rows()[: numbers.stop - 1]:
        receipt = json.loads(text) | {"content_hash": "0" * 64}
        del receipt["signature"]
        new = compact_json(receipt | {"signature": KERNEL.sign(signed_bytes(receipt))})
        previous = link(previous, number, [receipt_id, new, *rest])
        world.tamper(f"UPDATE http_receipts SET receipt_json = '{new}', chain = '{previous}' WHERE seq = {number}")
    return previous


def test_a_kept_head_is_not_defeated_by_an_erasure_that_states_its_digest(world: World, cli: CommandLine) -> None:
    fill(world)
    rows = world.rows()
    head = rows[-1][6]

    # The holder of the key rewrites rows 1 to 3, and joins them to the genuine row 5 by an erasure of row 4.
    previous = rewritten(world, range(1, 4))
    stated = replace(record(rows[3], KERNEL.public_hex), previous=previous, form=1).signed_by(KERNEL)
    world.tamper(f"UPDATE http_receipts SET receipt_json = '{stated}', fingerprint = '' WHERE seq = 4")
    assert fsck(cli, world.store, *TRUSTED)["findings"] == []
    for heads in (("--head", head), ("--head", rows[3][6]), ("--head", rows[3][6], "--head", head)):
        found = fsck(cli, world.store, *TRUSTED, *heads, status=1)["findings"]
        assert {(one["kind"], one["row"]) for one in found} == {("head", 4)}
    assert fsck(cli, world.store, *TRUSTED, "--head", previous)["findings"] == []  # only rows up to 3
    out = cli("receipt", "fsck", "--receipt-store", world.store, "--head", rows[2][6], "--head", head, status=1)
    assert f"the digest {rows[2][6]}: rows " in out

    # An erasure that states the kept head itself hides the rows after it, too.
    cut = replace(record(rows[3], KERNEL.public_hex), previous=previous, digest=head, form=1).signed_by(KERNEL)
    world.tamper(f"UPDATE http_receipts SET receipt_json = '{cut}', chain = '{head}' WHERE seq = 4")
    found = fsck(cli, world.store, *TRUSTED, "--head", previous, "--head", head, status=1)["findings"]
    assert ("head", 4) in {(one["kind"], one.get("row")) for one in found}


def test_two_kept_heads_fix_a_row_whose_digest_rests_on_a_signature(world: World, cli: CommandLine) -> None:
    fill(world)
    rows = world.rows()
    for row in rows[3:5]:
        genuine = replace(record(row, KERNEL.public_hex), previous=rows[row[0] - 2][6], form=1).signed_by(KERNEL)
        world.tamper(f"UPDATE http_receipts SET receipt_json = '{genuine}', fingerprint = '' WHERE seq = {row[0]}")
    both = ("--head", rows[2][6], "--head", rows[-1][6])
    found = fsck(cli, world.store, *TRUSTED, *both)
    assert (found["findings"], found["anchored"], found["covered_from"]) == ([], rows[-1][0], 1)
    found = fsck(cli, world.store, *TRUSTED, *both[2:], status=1)
    assert [(one["kind"], one["row"]) for one in found["findings"]] == [("head", 4), ("head", 5)]
    assert found["covered_from"] == 5


def test_a_column_beside_a_genuine_record_that_was_changed_is_found(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    erase(cli, world.store, ids["plain-1"])
    for column in ("fingerprint", "created_at", "id"):
        (old,) = [row for row in world.rows() if row[3] == "plain-1"]
        world.tamper(f"UPDATE http_receipts SET {column} = 'other' WHERE seq = {old[0]}")
        assert ("chain", old[0]) in {
            (one["kind"], one["row"]) for one in fsck(cli, world.store, *TRUSTED, status=1)["findings"]
        }
        value = dict(zip(("seq", *MEMBERS.split(", ")), old, strict=False))[column]
        world.tamper(f"UPDATE http_receipts SET {column} = '{value}' WHERE seq = {old[0]}")
    assert fsck(cli, world.store, *TRUSTED)["findings"] == []


def test_a_receipt_that_is_replaced_without_the_key_and_an_erased_row_that_is_removed_are_found(
    world: World, cli: CommandLine
) -> None:
    ids = fill(world)
    erase(cli, world.store, ids["plain-1"])
    number = next(row[0] for row in world.rows() if row[3] == "plain-1")
    world.tamper(f"DELETE FROM http_receipts WHERE seq = {number}")
    assert "gap" in {one["kind"] for one in fsck(cli, world.store, status=1)["findings"]}
    row = next(row for row in world.rows() if row[3] == "plain-3")
    said = record(row, STRANGER.public_hex)
    text = said.signed_by(STRANGER)
    world.execute(f"UPDATE http_receipts SET receipt_json = '{text}', fingerprint = '' WHERE seq = {row[0]}")
    kinds = {one["kind"] for one in fsck(cli, world.store, status=1)["findings"] if one["row"] == row[0]}
    assert kinds == {"erasure", "chain"}


def test_erasures_of_all_receipts_are_found_without_a_key_that_is_trusted(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    world.erase(list(ids.values()), signer(STRANGER, reason=REASON, now=NOW))
    (found,) = fsck(cli, world.store, status=1)["findings"]
    assert (found["kind"], found["row"]) == ("erasure", 1)
    assert f"erased by {STRANGER.public_hex}, which signs no receipt here; name it with --trusted-key" in found["text"]
    assert fsck(cli, world.store, "--trusted-key", STRANGER.public_hex)["findings"] == []
    assert len(fsck(cli, world.store, *TRUSTED, status=1)["findings"]) == len(ids)


REFUSED = [
    "receipt_json = '{text}'",
    "receipt_json = '{text}', fingerprint = 'f'",
    "receipt_json = '{{}}', fingerprint = ''",
    "receipt_json = '{other}', fingerprint = ''",
    "receipt_json = '{text}', fingerprint = '', chain = 'other'",
    "receipt_json = '{text}', fingerprint = '', created_at = 'other'",
    "receipt_json = '{text}', fingerprint = '', request_id = 'other'",
    "receipt_json = '{text}', fingerprint = '', seq = 99",
    "fingerprint = ''",
    "chain = chain",
]


@pytest.mark.parametrize("change", REFUSED)
def test_plain_sql_puts_nothing_but_an_erasure_of_the_row_in_its_place(change: str, world: World) -> None:
    fill(world)
    row = world.rows()[2]
    said = record(row, KERNEL.public_hex)
    texts = {"text": said.signed_by(KERNEL), "other": replace(said, row=row[0] + 1).signed_by(KERNEL)}
    before = world.rows()
    with pytest.raises(world.refusal, match="append-only"):
        world.execute(f"UPDATE http_receipts SET {change.format(**texts)} WHERE seq = {row[0]}")
    assert world.rows() == before


def test_an_erased_receipt_is_not_replaced_again(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    text, number = next((row[2], row[0]) for row in world.rows() if row[3] == "plain-1")
    erase(cli, world.store, ids["plain-1"])
    before = world.rows()
    for new in (text, next(row[2] for row in before if row[0] == number)):
        with pytest.raises(world.refusal, match="append-only"):
            world.execute(f"UPDATE http_receipts SET receipt_json = '{new}', fingerprint = '' WHERE seq = {number}")
    assert erase(cli, world.store, ids["plain-1"]).startswith(f"before    {ids['plain-1']}, row {number}, ")
    assert world.rows() == before


def test_nothing_is_erased_without_yes_an_id_that_is_there_a_reason_and_the_key_that_signs(
    world: World, cli: CommandLine, tmp_path: Path
) -> None:
    ids = fill(world)
    before = world.rows()
    command = ("receipt", "erase", "--receipt-store", world.store, ids["plain-1"])
    assert ids["plain-1"] in cli(*command, "--reason", REASON)
    assert "nothing was erased; --yes erases" in cli.err
    assert "no receipt unknown in" in cli.fails(*command, "unknown", "--reason", REASON, "--yes")
    with pytest.raises(ConfigurationError, match="no receipt unknown in"):
        world.erase([ids["plain-1"], "unknown"], signer(KERNEL, reason=REASON, now=NOW))
    assert "--reason" in cli.misused(*command, "--yes")
    for reason in ("", "two\nlines", "x" * 501):
        assert "a reason is one line" in cli.misused(*command, "--reason", reason, "--yes")
    wrong = key_file(tmp_path / "wrong.key", STRANGER)
    error = cli.fails("--authority-seed-file", wrong, *command, "--reason", REASON, "--yes")
    assert f"no new receipt is signed by {STRANGER.public_hex}" in error
    error = cli.fails("--authority-seed-file", tmp_path / "none", *command, "--reason", REASON, "--yes")
    assert "there is no key at" in error
    assert world.rows() == before


def test_a_row_that_was_changed_is_evidence_and_is_not_erased(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    world.tamper("UPDATE http_receipts SET created_at = 'x' WHERE request_id = 'plain-1'")
    before = world.rows()
    assert "is not as it was stored; see receipt fsck" in cli.fails(
        "receipt", "erase", "--receipt-store", world.store, ids["plain-0"], ids["plain-1"], "--reason", "r", "--yes"
    )
    assert world.rows() == before


def test_receipts_are_erased_while_a_sidecar_stores(world: World, cli: CommandLine) -> None:
    ids = fill(world)
    sign = signer(KERNEL, reason=REASON, now=NOW)

    async def main(app: Any) -> int:
        number = 0
        for receipt_id in ids.values():
            erasing = asyncio.ensure_future(asyncio.to_thread(world.erase, [receipt_id], sign))
            while not erasing.done():
                assert verdict(await decision(app, request_id=f"meanwhile-{number}")) == "allow"
                number += 1
            await erasing
        return number

    with world.app() as app:
        stored = run(main(app))
    found = fsck(cli, world.store, *TRUSTED)
    assert (found["findings"], found["erased"], found["rows"]) == ([], len(ids), len(ids) + stored)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_erasure_that_is_killed_leaves_all_receipts_or_none(steps: int, world: World, cli: CommandLine) -> None:
    ids = fill(world)
    before = world.rows()
    kill_while_erasing(world.erase, [ids["plain-0"], ids["plain-1"]], steps)
    with world.app() as app:  # a sidecar's start rolls back what was not committed
        run(decision(app, request_id="new"))
    assert (world.rows()[:-1] == before) is (steps < 2)
    found = fsck(cli, world.store, *TRUSTED)
    assert (found["findings"], found["erased"]) == ([], 2 if steps == 2 else 0)


def test_a_row_of_an_earlier_version_is_erased_and_its_link_rests_on_the_signature(
    tmp_path: Path, cli: CommandLine
) -> None:
    path = older(tmp_path / "receipts.sqlite3", 4)
    key_file(tmp_path / "receipts.sqlite3.key")
    (middle,) = select(path, "SELECT id FROM http_receipts WHERE seq = 2")[0]
    error = cli.fails("receipt", "erase", "--receipt-store", path, middle, "--reason", "r", "--yes")
    assert "has schema version 4, and an erasure needs 5; start the sidecar of this version once" in error
    world = FileWorld(tmp_path)
    with world.app() as app:
        run(decision(app, request_id="new"))
    erase(cli, path, str(middle))
    found = fsck(cli, path, *TRUSTED)
    assert found["findings"] == []
    assert [(one["row"], one["chained"]) for one in found["erasures"]] == [(2, False)]
    assert "; digest by this signature alone\n" in cli("receipt", "fsck", "--receipt-store", path, *TRUSTED)
    head = found["head"]
    said = cli("receipt", "fsck", "--receipt-store", path, *TRUSTED, "--head", str(head), status=1)
    assert "--head    row 4, for rows from 2 on: the digest of row 2 rests on a signature\n" in said
    # Only a holder of the key can state another link.
    (text,) = select(path, "SELECT receipt_json FROM http_receipts WHERE seq = 2")[0]
    said = Erasure.read(text)
    for forged in (resigned(said, STRANGER), resigned(said, previous="0" * 64), resigned(said, digest="0" * 64)):
        world.tamper(f"UPDATE http_receipts SET receipt_json = '{forged}' WHERE seq = 2")
        assert {one["row"] for one in fsck(cli, path, *TRUSTED, status=1)["findings"]} == {2}


def test_rows_from_before_the_chain_are_erased(tmp_path: Path, cli: CommandLine) -> None:
    path = older(tmp_path / "receipts.sqlite3", 3)
    with FileWorld(tmp_path).app() as app:
        run(decision(app, request_id="new"))
    rows = FileWorld(tmp_path).rows()
    assert rows[0][6] is None
    before = fsck(cli, path, status=None)
    erase(cli, path, rows[0][1])
    after = fsck(cli, path, status=None)
    assert after["head"] == before["head"]
    assert after["erased"] == 1
    assert {one["kind"] for one in after["findings"]} <= {one["kind"] for one in before["findings"]}
