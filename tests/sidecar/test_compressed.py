"""An archive whose name ends in `.xz`: one that `xz -d` and every command reads, and no bomb fills."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from chio_core.errors import ConfigurationError
from chio_sidecar.store.backup import backup
from chio_sidecar.store.sqlite import SqliteReceiptStore
from tests.sidecar.control_tools import CommandLine, write_store
from tests.sidecar.fsck_tools import fill
from tests.sidecar.sidecar_tools import KERNEL
from tests.sidecar.test_rotate import LATER, fsck, keyed
from tests.support import run
from tests.viewer.records import receipt


def rotated(folder: Path, cli: CommandLine) -> tuple[Path, Path]:
    """Return a store and its compressed archive."""
    path, target = keyed(fill(folder, 3)), folder / "archive.xz"
    cli("receipt", "rotate", "--receipt-store", path, "--to", target, "--keep", str(LATER))
    return path, target


def test_what_xz_makes_of_an_archive_is_the_archive(tmp_path: Path, cli: CommandLine) -> None:
    path, target = rotated(tmp_path, cli)
    plain = tmp_path / "archive"
    plain.write_bytes(lzma.decompress(target.read_bytes(), lzma.FORMAT_XZ))
    assert plain.read_bytes().startswith(b"SQLite format 3\x00")
    again = tmp_path / "again.xz"
    again.write_bytes(lzma.compress(plain.read_bytes(), preset=9))
    whole = fsck(cli, path, target).replace(str(target), str(plain))
    assert whole.count("findings  0\n") == 2
    assert fsck(cli, path, plain) == whole
    assert fsck(cli, path, again).replace(str(again), str(plain)) == whole


def test_every_command_reads_a_compressed_archive_as_a_plain_one(tmp_path: Path, cli: CommandLine) -> None:
    target = rotated(tmp_path, cli)[1]
    plain = tmp_path / "archive"
    plain.write_bytes(lzma.decompress(target.read_bytes()))
    listed = cli("receipt", "list", "--receipt-store", plain, "--json")
    first = json.loads(listed.splitlines()[0])["id"]
    for command in (
        ("receipt", "list", "--json"),
        ("receipt", "list", "--outcome", "deny"),
        ("receipt", "show", first, "--verify", "--trusted-key", KERNEL.public_hex),
        ("receipt", "diff", "--all"),
        ("receipt", "verify", "--trusted-key", KERNEL.public_hex),
        ("receipt", "fsck", "--trusted-key", KERNEL.public_hex),
        ("explain", first),
    ):
        told = [cli(*command, "--receipt-store", file, status=None) for file in (target, plain)]
        assert told[0].replace(str(target), str(plain)) == told[1]
    for name, file in (("one", target), ("other", plain)):
        cli("receipt", "export", tmp_path / name, "--receipt-store", file)
        cli("receipt", "backup", tmp_path / f"{name}.copy", "--receipt-store", file)
    assert (tmp_path / "one" / "chain.ndjson").read_bytes() == (tmp_path / "other" / "chain.ndjson").read_bytes()
    assert (tmp_path / "one.copy").read_bytes() == (tmp_path / "other.copy").read_bytes()


def test_no_file_is_left_where_a_compressed_archive_was_written_and_read(
    tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(room))
    target = rotated(tmp_path, cli)[1]
    cli("receipt", "list", "--receipt-store", target)
    assert list(room.iterdir()) == []
    assert list(tmp_path.glob(".*")) == []
    room.rmdir()
    error = cli.fails("receipt", "list", "--receipt-store", target)
    assert f"cannot decompress {target} to a temporary file: No such file or directory; TMPDIR names" in error


def flip(raw: bytes) -> bytes:
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "ends too early"),
    "cut in its head": (lambda raw: raw[:10], "ends too early"),
    "cut in its rows": (lambda raw: raw[: len(raw) // 2], "ends too early"),
    "cut before its last byte": (lambda raw: raw[:-1], "ends too early"),
    "one bit changed": (flip, "cannot decompress"),
    "not compressed": (lambda raw: lzma.decompress(raw), "cannot decompress"),
    "more at its end": (lambda raw: raw + b"x", "has bytes after its end"),
    "a bomb": (lambda raw: lzma.compress(bytes(64 << 20)), "grows more than 200 times"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_an_error_that_names_it(kind: str, tmp_path: Path, cli: CommandLine) -> None:
    path, good = rotated(tmp_path, cli)
    change, message = BROKEN[kind]
    broken = tmp_path / "broken.xz"
    broken.write_bytes(change(good.read_bytes()))
    for command in ("list", "verify", "export", "fsck"):
        folder = [tmp_path / "export"] if command == "export" else []
        error = cli.fails("receipt", command, *folder, "--receipt-store", broken)
        assert str(broken) in error
        # The first bytes of a bomb are enough to say that it is no store.
        assert message in error or (kind == "a bomb" and command in {"export", "fsck"})
    cli("receipt", "list", "--receipt-store", path)


def test_a_compressed_file_is_no_store_to_write_to(tmp_path: Path) -> None:
    target = tmp_path / "copy.xz"
    backup(write_store(tmp_path / "r", map(receipt, range(1, 9))), target)
    before = target.read_bytes()
    assert before.startswith(b"\xfd7zXZ")
    for name in ("copy.xz", "new.xz"):
        with pytest.raises(ConfigurationError, match=f"{name} is compressed, and only read; .* xz -d"):
            run(SqliteReceiptStore(tmp_path / name).close())
    assert target.read_bytes() == before
    assert not (tmp_path / "new.xz").exists()
