"""`receipt export`: a folder that is verified without the store, and in which nothing can be missing unseen."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import VerifyKey

from chio_sidecar.records.export import write
from chio_sidecar.records.exported import Export
from tests.sidecar.control_tools import CommandLine, write_store
from tests.sidecar.fsck_tools import fill, older, select, tamper
from tests.sidecar.sidecar_tools import KERNEL, STRANGER
from tests.sidecar.test_rotate import keyed, rotate
from tests.viewer.records import NOW, receipt

COUNT = 9


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Receipts 1 to 9, signed a second apart."""
    return keyed(write_store(tmp_path / "store", map(receipt, range(1, COUNT + 1))))


@pytest.fixture
def export(store: Path, tmp_path: Path, cli: CommandLine) -> Path:
    cli("receipt", "export", "--receipt-store", store, tmp_path / "export")
    return tmp_path / "export"


def verify(cli: CommandLine, folder: Path, *options: object, status: int = 0) -> str:
    out = cli("receipt", "verify", folder, "--trusted-key", KERNEL.public_hex, *options, status=status)
    return out + cli.err


def manifest(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return document


def test_an_export_has_the_stored_texts_and_verifies_without_the_store(
    store: Path, tmp_path: Path, cli: CommandLine
) -> None:
    folder = tmp_path / "export"
    (head,) = select(store, "SELECT digest FROM receipt_chain_head")[0]
    out = cli("receipt", "export", "--receipt-store", store, folder)
    key = KERNEL.public_hex
    assert out == f"rows      1 to {COUNT}\nsigned by {key}, {COUNT}\nhead      {head}, signed by {key}\n"
    texts = "".join(f"{text}\n" for (text,) in select(store, "SELECT receipt_json FROM http_receipts ORDER BY seq"))
    assert (folder / "receipts.ndjson").read_text() == texts
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    store.unlink()
    assert verify(cli, folder).splitlines() == [
        f"rows      1 to {COUNT}",
        f"head      {head}, signed by {key}",
        f"key       {key}, {COUNT} from 2026-04-15T17:06:16Z to 2026-04-15T17:06:24Z",
        f"allow     {COUNT}",
        f"{COUNT} receipts: {COUNT} valid, 0 invalid",
    ]
    assert f"receipt verify --trusted-key {key} export\n" in (folder / "README.md").read_text()


def test_the_rules_of_its_readme_alone_verify_it(export: Path) -> None:
    """With hashlib and an Ed25519 library, as a program of another language would."""

    def number(value: int) -> bytes:
        return value.to_bytes(8, "big")

    def text(value: str) -> bytes:
        return number(len(value.encode())) + value.encode()

    found = manifest(export)
    digest = hashlib.sha256(b"chio.receipt-store.first.v1\0").hexdigest()
    assert digest == found["before"]
    lines = (export / "receipts.ndjson").read_text().splitlines()
    for line, row in zip(lines, map(json.loads, (export / "chain.ndjson").read_text().splitlines()), strict=True):
        content = hashlib.sha256(b"chio.receipt-store.content.v1\0" + text(line) + text(row["fingerprint"])).hexdigest()
        parts = [row["id"], json.loads(line).get("content", content), row["request_id"], row["created_at"]]
        hashed = b"chio.receipt-store.row.v2\0" + text(digest) + number(row["row"]) + b"".join(map(text, parts))
        digest = hashlib.sha256(hashed).hexdigest()
        assert digest == row["digest"]
    assert digest == found["head"]
    for signed in map(json.loads, [*lines, found["statement"]]):
        signature, key = bytes.fromhex(signed.pop("signature")), VerifyKey(bytes.fromhex(signed["kernel_key"]))
        key.verify(json.dumps(signed, sort_keys=True, separators=(",", ":")).encode(), signature)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        (("--since", NOW + 3, "--until", NOW + 5), (3, 5)),
        (("--since", NOW + 8), (8, 9)),
        (("--until", NOW + 2), (1, 2)),
        (("--since", NOW + 4, "--until", NOW + 4), (4, 4)),
    ],
)
def test_a_time_is_a_segment_of_the_chain(
    options: tuple[object, ...], rows: tuple[int, int], store: Path, tmp_path: Path, cli: CommandLine
) -> None:
    cli("receipt", "export", "--receipt-store", store, tmp_path / "export", *options)
    said = verify(cli, tmp_path / "export")
    assert said.startswith(f"rows      {rows[0]} to {rows[1]}\n")
    assert f"{rows[1] - rows[0] + 1} valid, 0 invalid" in said


def change(path: Path, old: str, new: str) -> None:
    before = path.read_text()
    after = re.sub(old, new, before, count=1, flags=re.DOTALL)
    assert before != after
    path.write_text(after)


ROW = '"row":3,.*?"digest":"'
CHANGES = {
    "a receipt": ("receipts.ndjson", "receipt-00003", "receipt-x0003", 1, "receipt-x0003 INVALID signature"),
    "white space in a receipt": ("receipts.ndjson", '"method":', '"method": ', 1, "row 1: its digest does not follow"),
    "a time of storage": ("chain.ndjson", '("row":3.*?created_at":")2', "\\g<1>3", 1, "row 3: its digest does not"),
    "a digest": ("chain.ndjson", f"({ROW}).", "\\g<1>x", 1, "row 3: its digest does not follow"),
    "a row's number": ("chain.ndjson", '"row":3', '"row":4', 1, "row 3: it cannot be used: it does not follow"),
    "the head": ("manifest.json", '"head":".', '"head":"x', 1, "the signed statement is about other rows"),
    "the statement": ("manifest.json", '"name.":."export', '"name\\\\":\\\\"other', 1, "its signature does not verify"),
    "a receipt is gone": (
        "receipts.ndjson",
        '\\{"id":"receipt-00003".*?\n',
        "",
        3,
        "1 of the receipts that chain.ndjson lists",
    ),
    "the end of both is gone": ("chain.ndjson", '\\{"row":9.*', "", 1, "receipt receipt-00009 is in no row of"),
    "it says that it is a part": ("manifest.json", '"complete":true', '"complete":false', 3, "not complete: "),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_was_changed_or_is_missing_is_found(kind: str, export: Path, cli: CommandLine) -> None:
    file, old, new, status, text = CHANGES[kind]
    change(export / file, old, new)
    assert text in verify(cli, export, status=status)
    assert text in verify(cli, export, "--allow-partial", status=0 if status == 3 else 1)


def test_the_last_rows_cannot_be_cut_off_unseen(export: Path, cli: CommandLine) -> None:
    for file in ("receipts.ndjson", "chain.ndjson"):
        lines = (export / file).read_text().splitlines(keepends=True)
        (export / file).write_text("".join(lines[:-2]))
    assert "not complete: rows 8 to 9, which manifest.json lists" in verify(cli, export, status=3)


def test_a_statement_of_another_key_or_none_is_named(store: Path, tmp_path: Path, cli: CommandLine) -> None:
    write(store, tmp_path / "other", since=None, until=None, key=STRANGER, now=NOW)
    said = verify(cli, tmp_path / "other", status=1)
    assert f"its statement is signed by {STRANGER.public_hex}, which is not trusted" in said
    store.with_name("store.key").unlink()
    assert cli("receipt", "export", "--receipt-store", store, tmp_path / "none").endswith(", not signed\n")
    assert ", not signed\n" in verify(cli, tmp_path / "none")


def test_an_export_of_a_rotated_store_says_what_is_in_the_archive(tmp_path: Path, cli: CommandLine) -> None:
    path = keyed(fill(tmp_path, 3))
    last = rotate(path, tmp_path / "archive").last
    cli("receipt", "export", "--receipt-store", path, tmp_path / "a")
    left_out = f"not complete: receipts 1 to {last - 1}, which are archived, the newest of them in archive"
    assert left_out in cli.err
    assert left_out in verify(cli, tmp_path / "a", status=3)
    cli(
        "receipt",
        "export",
        "--receipt-store",
        tmp_path / "archive",
        "--authority-seed-file",
        f"{path}.key",
        tmp_path / "b",
    )
    assert f"{last} valid, 0 invalid" in verify(cli, tmp_path / "b")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("first", [1, 3])
def test_rows_from_before_the_chain_are_part_of_it(version: int, first: int, tmp_path: Path) -> None:
    path = older(tmp_path / "r", version)
    (since,) = select(path, f"SELECT json_extract(receipt_json, '$.timestamp') FROM http_receipts WHERE seq = {first}")[
        0
    ]
    made = write(path, tmp_path / "e", since=int(str(since)), until=None, key=None, now=NOW)
    assert made["rows"] == {"first": first, "last": 3}
    found = Export(tmp_path / "e", None)
    assert len(list(found.receipts())) == 4 - first
    assert found.problems == found.left_out == []


def test_nothing_is_written_if_the_store_is_damaged_or_the_folder_exists(
    store: Path, tmp_path: Path, cli: CommandLine
) -> None:
    (tmp_path / "taken").mkdir()
    place = ("receipt", "export", "--receipt-store", store)
    assert "it exists; name a new folder" in cli.fails(*place, tmp_path / "taken")
    assert "has no receipt of that time" in cli.fails(*place, tmp_path / "e", "--since", NOW + 99)
    assert "there is no receipt store" in cli.fails(*place[:2], "--receipt-store", "none", tmp_path / "e")
    assert "No such file" in cli.fails(*place, tmp_path / "x" / "e")
    tamper(store, "UPDATE http_receipts SET created_at = 'x' WHERE seq = 5")
    assert "row 5 of" in cli.fails(*place, tmp_path / "e")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["store", "store.key", "taken"]


def test_a_folder_that_is_no_export_is_named(export: Path, tmp_path: Path, cli: CommandLine) -> None:
    assert "is no export: manifest.json: No such file" in cli.fails("receipt", "verify", tmp_path)
    (export / "chain.ndjson").unlink()
    assert "chain.ndjson: No such file" in cli.fails("receipt", "verify", export)
    (export / "manifest.json").write_text("{}")
    assert "its format is not chio-receipt-export/1" in cli.fails("receipt", "verify", export)
