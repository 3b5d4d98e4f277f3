"""`receipt fsck` finds every edit of a row and says where (B2)."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chio_sidecar.store.hash_chain import FIRST, MEMBERS, link
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.fsck_tools import alter, fill, inspect, older, select, tamper
from tests.sidecar.sidecar_tools import STRANGER, decision, sidecar
from tests.support import run
from tests.viewer.records import KEY, receipt

PLACES = 12
"""Random places at which each edit is made."""

PLAIN = 20


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("store"), PLAIN)


Edit = Callable[[int, int], tuple[list[str], set[int]]]
"""Given a row and the number of rows: statements, and the rows that findings are about."""


def _update(assignment: str, *, breaks_next: bool = False) -> Edit:
    # The next row's digest follows the digest of this one: changing that breaks both rows.
    def edit(at: int, last: int) -> tuple[list[str], set[int]]:
        rows = {at, min(at + 1, last)} if breaks_next else {at}
        return [f"UPDATE http_receipts SET {assignment} WHERE seq = {at}"], rows

    return edit


def _duplicate(at: int, last: int) -> tuple[list[str], set[int]]:
    columns = f"{last + 1}, id || '-2', receipt_json, request_id || '-2', fingerprint, created_at, chain"
    return [f"INSERT INTO http_receipts SELECT {columns} FROM http_receipts WHERE seq = {at}"], {last + 1}


def _swap(at: int, last: int) -> tuple[list[str], set[int]]:
    other = at % last + 1
    moves = ((at, last + 9), (other, at), (last + 9, other))
    statements = [f"UPDATE http_receipts SET seq = {to} WHERE seq = {one}" for one, to in moves]
    return statements, {min(row, last) for one in (at, other) for row in (one, one + 1)}


def _swap_texts(at: int, last: int) -> tuple[list[str], set[int]]:
    other = at % last + 1
    text = "(SELECT receipt_json FROM texts WHERE seq = {})"
    return [
        f"CREATE TEMP TABLE texts AS SELECT seq, receipt_json FROM http_receipts WHERE seq IN ({at}, {other})",
        f"UPDATE http_receipts SET receipt_json = {text.format(other)} WHERE seq = {at}",
        f"UPDATE http_receipts SET receipt_json = {text.format(at)} WHERE seq = {other}",
    ], {at, other}


EDITS: dict[str, Edit] = {
    "a row is dropped": lambda at, last: ([f"DELETE FROM http_receipts WHERE seq = {at}"], {min(at + 1, last)}),
    "the tail is cut off": lambda at, last: ([f"DELETE FROM http_receipts WHERE seq >= {at}"], {last}),
    "a row is stored twice": _duplicate,
    "two rows change places": _swap,
    "two texts change places": _swap_texts,
    "a row is moved behind the last": lambda at, last: (
        [f"UPDATE http_receipts SET seq = {last + 5} WHERE seq = {at}"],
        {at + 1, last + 5} - {last + 1},
    ),
    "a row is moved before the first": lambda at, last: (
        [f"UPDATE http_receipts SET seq = -3 WHERE seq = {at}"],
        {-3, 1 if at > 1 else 2, min(at + 1, last)},
    ),
    "another id": _update("id = id || 'x'"),
    "another request id": _update("request_id = request_id || 'x'"),
    "another fingerprint": _update("fingerprint = upper(fingerprint) || 'x'"),
    "another time": _update("created_at = '2026-01-01T00:00:00.000000Z'"),
    "another verdict": _update("""receipt_json = replace(receipt_json, '"verdict":"', '"verdict":"x')"""),
    "a space in the text": _update("receipt_json = receipt_json || ' '"),
    "an empty text": _update("receipt_json = ''"),
    "a text that is a number": _update("receipt_json = 'NaN'"),
    "a blob": _update("fingerprint = x'00ff'"),
    "no UTF-8": _update("created_at = CAST(x'ff41' AS TEXT)"),
    "another digest": _update("chain = replace(chain, substr(chain, 1, 1), 'e') || 'e'", breaks_next=True),
    "a digest that is a blob": _update("chain = x'00'"),
    "no digest": _update("chain = NULL"),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_a_row_is_found_where_it_was_made(name: str, genuine: Path, tmp_path: Path) -> None:
    (last,) = select(genuine, "SELECT max(seq) FROM http_receipts")[0]
    assert isinstance(last, int)
    places = {1, 2, last - 1, last, *random.Random(name).sample(range(1, last + 1), PLACES)}
    for at in sorted(places):
        path = tmp_path / f"{at}.sqlite3"
        shutil.copyfile(genuine, path)
        statements, expected = EDITS[name](at, last)
        tamper(path, *statements)
        findings, summary = inspect(path)
        assert {finding.row for finding in findings if finding.kind != "record"} == expected, (at, findings)
        assert summary.findings == len(findings) > 0


def test_a_store_as_a_sidecar_leaves_it_is_clean(genuine: Path) -> None:
    findings, summary = inspect(genuine)
    assert findings == []
    newest = select(genuine, "SELECT count(*), min(seq), max(seq), chain FROM http_receipts ORDER BY seq DESC")[0]
    assert (summary.rows, summary.first, summary.last) == newest[:3]
    assert [(summary.head,)] == select(genuine, "SELECT digest FROM receipt_chain_head")


def test_the_rows_that_are_gone_from_the_end_are_named(genuine: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(genuine, tmp_path / "r"))
    (last,) = select(path, "SELECT max(seq) FROM http_receipts")[0]
    tamper(path, "DELETE FROM http_receipts WHERE seq > 20")
    places = [finding.place for finding in inspect(path)[0] if finding.kind == "end"]
    assert places == [f"rows 21 to {last}"]


RECORDS = {
    "capability_invocations": ["ordinal = 7 WHERE ordinal = 2", "request_id = 'x' WHERE ordinal = 1"],
    "budget_charges": ["cost = 1 WHERE ordinal = 2", "total = 1", "request_id = 'x'", "ordinal = 9 WHERE ordinal = 3"],
    "chio_hitl_pending": [
        "expires_at = 1",
        "intent_hash = 'x'",
        "approval_id = approval_id || 'x'",
        "request_json = ''",
        "request_json = replace(request_json, '/pay', '/PAY')",
    ],
    "chio_hitl_resolved": [
        "outcome = 'denied'",
        "approver = ''",
        "token_id = 'x'",
        "expires_at = expires_at + 1",
        "token_json = replace(token_json, 'signature\":\"', 'signature\":\"00')",
        "token_json = '[]'",
    ],
    "chio_hitl_consumed_tokens": ["approval_id = 'x'", "token_id = 'x'", "request_id = 'x'"],
}


@pytest.mark.parametrize("table", RECORDS)
def test_records_beside_receipts_are_compared_with_them(table: str, genuine: Path, tmp_path: Path) -> None:
    for number, change in enumerate([*RECORDS[table], None]):
        path = Path(shutil.copyfile(genuine, tmp_path / f"{number}.sqlite3"))
        gone = f"DELETE FROM {table} WHERE rowid = (SELECT min(rowid) FROM {table})"
        tamper(path, gone if change is None else f"UPDATE {table} SET {change}")
        findings, _ = inspect(path)
        assert {finding.kind for finding in findings} == {"record"}, (change, findings)


def test_a_use_of_an_approval_that_is_gone_is_found_at_its_receipt(genuine: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(genuine, tmp_path / "r"))
    tamper(path, "DELETE FROM chio_hitl_consumed_tokens")
    ((row,),) = select(path, "SELECT seq FROM http_receipts WHERE request_id = 'req-paid'")
    ((finding,), _) = inspect(path)
    assert (finding.row, finding.kind) == (row, "record")
    assert "so it could be used again" in finding.text


def test_tables_and_triggers_must_be_those_of_a_sidecar(genuine: Path, tmp_path: Path) -> None:
    changes = {
        "trigger http_receipts_no_delete": "DROP TRIGGER http_receipts_no_delete",
        "table receipt_chain_start": "DROP TABLE receipt_chain_start",
        "table receipt_chain_head": "DROP TABLE receipt_chain_head",
        "view receipts": "DROP VIEW receipts",
        "trigger mine": "CREATE TRIGGER mine AFTER INSERT ON http_receipts BEGIN SELECT 1; END",
    }
    for number, (place, statement) in enumerate(changes.items()):
        path = Path(shutil.copyfile(genuine, tmp_path / f"{number}.sqlite3"))
        alter(path, statement)
        assert place in {finding.place for finding in inspect(path)[0] if finding.kind == "schema"}


def test_an_untrusted_key_is_found_at_each_receipt(genuine: Path) -> None:
    findings, summary = inspect(genuine, trusted={STRANGER.public_hex})
    assert [finding.row for finding in findings] == list(range(1, summary.last + 1))


def rebuild(path: Path) -> None:
    """Compute the chain again, as an attacker can who may write the file and has read this."""
    digest, statements = FIRST, []
    for sequence, *members in select(path, f"SELECT seq, {MEMBERS} FROM http_receipts ORDER BY seq"):
        digest = link(digest, int(str(sequence)), [str(member) for member in members])
        statements.append(f"UPDATE http_receipts SET chain = '{digest}' WHERE seq = {sequence}")
    tamper(path, *statements, f"UPDATE receipt_chain_head SET seq = {sequence}, digest = '{digest}'")


def test_a_chain_that_was_computed_again_does_not_fit_a_head_that_was_kept(genuine: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(genuine, tmp_path / "r"))
    kept = inspect(path)[1].head
    tamper(path, "UPDATE http_receipts SET created_at = '2026' WHERE seq = 20")
    rebuild(path)
    assert inspect(path)[0] == []
    ((finding,), summary) = inspect(path, kept=kept)
    assert (finding.kind, summary.anchored) == ("head", None)
    assert str(kept) in finding.text


async def test_a_head_that_was_kept_is_found_again_after_more_rows(genuine: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(genuine, tmp_path / "receipts.sqlite3"))
    (last,) = select(path, "SELECT max(seq) FROM http_receipts")[0]
    kept = inspect(path)[1].head
    assert inspect(path, kept=kept)[1].anchored == last
    async with sidecar(path.parent, store_path=path) as app:
        await decision(app, request_id="later")
    assert inspect(path, kept=kept)[1].anchored == last
    assert select(path, "SELECT max(seq) FROM http_receipts") == [(last + 1,)]
    ((digest,),) = select(path, "SELECT chain FROM http_receipts WHERE seq = 7")
    assert inspect(path, kept=str(digest))[1].anchored == 7
    assert inspect(path, kept=FIRST)[1].anchored == 0


def test_a_store_from_before_the_chain_is_checked_without_it(tmp_path: Path) -> None:
    trusted = {KEY.public_hex}
    path = older(tmp_path / "r", 2)
    findings, summary = inspect(path, trusted=trusted)
    assert (findings, summary.rows, summary.chained_from, summary.head) == ([], 3, None, None)
    assert [finding.kind for finding in inspect(path, trusted=trusted, kept=FIRST)[0]] == []
    tamper(path, "DELETE FROM http_receipts WHERE seq = 2", "UPDATE http_receipts SET id = 'x' WHERE seq = 3")
    kinds = {(finding.kind, finding.row) for finding in inspect(path, trusted=trusted)[0]}
    assert kinds == {("gap", 3), ("column", 3), ("record", None)}


def test_rows_from_before_the_chain_are_compared_with_its_start(tmp_path: Path) -> None:
    trusted = {KEY.public_hex}
    path = older(tmp_path / "r", 2)
    run(SqliteReceiptStore(path).close())
    findings, summary = inspect(path, trusted=trusted)
    assert (findings, summary.chained_from) == ([], 4)
    tamper(path, "UPDATE http_receipts SET fingerprint = 'x' WHERE seq = 2")
    ((finding,), _) = inspect(path, trusted=trusted)
    assert (finding.kind, finding.place) == ("chain", "rows 1 to 3")
    tamper(path, "UPDATE http_receipts SET chain = 'x' WHERE seq = 1")
    assert [finding.row for finding in inspect(path, trusted=trusted)[0]] == [1, None]


def test_a_row_after_the_newest_that_the_store_names_is_found(tmp_path: Path) -> None:
    path = older(tmp_path / "r", 2)
    run(SqliteReceiptStore(path).close())
    document = receipt(4)
    tamper(
        path,
        f"INSERT INTO http_receipts VALUES (4, '{document['id']}', '{{}}', '{document['request_id']}', '', '', NULL)",
    )
    findings, _ = inspect(path, trusted={KEY.public_hex})
    assert {(finding.kind, finding.row) for finding in findings} == {("chain", 4), ("signature", 4), ("end", 4)}
