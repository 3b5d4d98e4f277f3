"""An export: a folder with the receipts of a time, their part of the hash chain, and the keys, for an auditor.

It needs no sidecar and no store to be verified: `receipt verify FOLDER`, or any program, from its README.md.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from chio_core.canonical import compact_json, parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey
from chio_sidecar.records.export_readme import README
from chio_sidecar.records.file import Header, connect, in_pages
from chio_sidecar.store.archive import ArchiveStatement
from chio_sidecar.store.driver import UNUSABLE, sqlite3, trouble
from chio_sidecar.store.hash_chain import FIRST, MEMBERS, link
from chio_sidecar.store.tables import ARCHIVED, CHAINED

FORMAT = "chio-receipt-export/1"

RECEIPTS, CHAIN, MANIFEST = "receipts.ndjson", "chain.ndjson", "manifest.json"
"""The files: one stored text a line; for each row of the store what its digest covers besides that; all about it."""

_ROWS_AT_ONCE = 2_000
_IN_TIME = "json_extract(receipt_json, '$.timestamp') BETWEEN ? AND ?"
_ALWAYS = (-(2**63), 2**63 - 1)


def write(
    store: Path, target: Path, *, since: int | None, until: int | None, key: SigningKey | None, now: int
) -> dict[str, Any]:
    """Write an export and return its manifest. The folder appears when it is complete.

    It holds every row from the first to the last receipt of that time: rows are in the order of storage, and receipts
    between two of that time are part of the chain.

    Args:
        store: the SQLite file of a sidecar, which may run.
        target: the new folder, of mode 0700.
        since: receipts that were signed at this second since 1970 or later; None: from the first on.
        until: at this second or earlier; None: up to the last.
        key: signs the statement about the head; None: it is not signed.
        now: seconds since 1970.

    Raises:
        ConfigurationError: the store cannot be read, a row is damaged, there is no receipt of that time, or the folder
            cannot be written.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        if target.exists() or target.is_symlink():
            raise ConfigurationError(f"cannot write {target}: it exists; name a new folder")
        version = Header.read(store).version
        with closing(connect(store, "mode=ro", busy_seconds=30.0)) as connection:
            draft.mkdir(mode=0o700)
            manifest = _fill(_Source(connection, store, version), draft, since, until)
        manifest |= {"exported_at": now, "since": since, "until": until, "statement": None}
        if key is not None:
            rows, head = manifest["rows"], manifest["head"]
            stated = ArchiveStatement(target.name, rows["first"], rows["last"], head, now, key.public_hex)
            manifest["statement"] = stated.signed_by(key)
        (draft / MANIFEST).write_text(compact_json(manifest) + "\n", encoding="utf-8")
        options = "".join(f" --trusted-key {entry['kernel_key']}" for entry in manifest["keys"])
        (draft / "README.md").write_text(README.format(name=target.name, options=options), encoding="utf-8")
        os.rename(draft, target)
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot read {store}: {trouble(exc)}") from None
    except OSError as exc:
        raise ConfigurationError(f"cannot export {store} to {target}: {exc.strerror}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest


class _Source:
    def __init__(self, connection: sqlite3.Connection, path: Path, version: int) -> None:
        self.connection = connection
        self.path = path
        digest = "chain" if version >= CHAINED else "NULL"
        self._select = (
            f"SELECT seq, {MEMBERS}, {digest} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"  # noqa: S608
        )
        self.base, self.base_digest, self.archive = 0, FIRST, ""
        if version >= ARCHIVED:
            self.base, self.base_digest = connection.execute("SELECT seq, digest FROM receipt_chain_base").fetchone()
            newest = "SELECT statement FROM receipt_archives ORDER BY number DESC LIMIT 1"
            for (statement,) in connection.execute(newest):
                self.archive = ArchiveStatement.read(statement).name

    def bounds(self, since: int | None, until: int | None) -> tuple[int, int]:
        """Return the first and the last row of a time."""
        limits = (_ALWAYS[0] if since is None else since, _ALWAYS[1] if until is None else until)
        low, high = self.connection.execute("SELECT min(seq), max(seq) FROM http_receipts").fetchone()
        sql = f"SELECT min(seq), max(seq) FROM http_receipts WHERE seq BETWEEN ? AND ? AND {_IN_TIME}"  # noqa: S608
        first = last = None
        for start in range(low or 0, (high or -1) + 1, _ROWS_AT_ONCE):
            found = self.connection.execute(sql, (start, min(start + _ROWS_AT_ONCE - 1, high), *limits)).fetchone()
            first, last = found[0] if first is None else first, last if found[1] is None else found[1]
        if first is None or last is None:
            raise ConfigurationError(f"{self.path} has no receipt of that time; see receipt list")
        return first, last

    def rows(self, first: int, last: int, digest: str) -> Iterator[tuple[int, list[str], str]]:
        """Yield number, members and digest of rows; `digest` is that of the row before."""
        expected = first
        for number, *members, stored in in_pages(self.connection, self._select, range(first, last + 1)):
            if number != expected or not all(isinstance(member, str) for member in members):
                raise ConfigurationError(f"row {expected} of {self.path} is damaged; see receipt fsck")
            digest = link(digest, number, members)
            if stored not in (digest, None) or "\n" in members[1]:
                raise ConfigurationError(f"row {number} of {self.path} is not as it was stored; see receipt fsck")
            yield number, members, digest
            expected += 1

    def digest_before(self, first: int) -> str:
        """Return the digest of the row before `first`."""
        for *_, stored in self.connection.execute(self._select, (first - 1, first - 1, 1)):
            if first - 1 > self.base and stored is not None:
                return str(stored)
        # It is the base, or the rows before are older than the chain.
        digests = (digest for *_, digest in self.rows(self.base + 1, first - 1, self.base_digest))
        return deque(digests, maxlen=1).pop() if first - 1 > self.base else self.base_digest


def _fill(source: _Source, folder: Path, since: int | None, until: int | None) -> dict[str, Any]:
    first, last = source.bounds(since, until)
    before = head = source.digest_before(first)
    keys: dict[str, dict[str, Any]] = {}
    left_out = None
    with (folder / RECEIPTS).open("w", encoding="utf-8") as receipts, (folder / CHAIN).open("w") as chain:
        for number, members, digest in source.rows(first, last, before):
            head = digest
            receipt_id, text, request_id, fingerprint, created_at = members
            receipts.write(text + "\n")
            named = {"id": receipt_id, "request_id": request_id, "fingerprint": fingerprint, "created_at": created_at}
            chain.write(compact_json({"row": number, **named, "digest": digest}) + "\n")
            try:
                document = parse_json(text)
                signer, signed_at = document["kernel_key"], document["timestamp"]
            except (InvalidDocument, KeyError, TypeError):
                raise ConfigurationError(f"row {number} of {source.path} holds no receipt; see receipt fsck") from None
            if number == first == source.base + 1 > 1 and (since is None or signed_at >= since):
                name = f", the newest of them in {source.archive}" if source.archive else ""
                left_out = f"receipts 1 to {source.base}, which are archived{name}: export them from there"
            entry = keys.setdefault(signer, {"kernel_key": signer, "first": number, "receipts": 0})
            entry |= {"last": number, "receipts": entry["receipts"] + 1}
    return {
        "format": FORMAT,
        "complete": left_out is None,
        "left_out": left_out,
        "rows": {"first": first, "last": last},
        "before": before,
        "head": head,
        "keys": list(keys.values()),
    }
