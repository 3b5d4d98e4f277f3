"""An export: a folder with the receipts of a time, their part of the hash chain, and the keys, for an auditor.

It needs no sidecar and no store to be verified: `receipt verify FOLDER`, or any program, from its README.md.
It is made from the rows of one hash chain, `Source`: of a file, or of one log of a database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from chio_core.canonical import canonical_json, compact_json, parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey
from chio_sidecar.private_files import new_folder
from chio_sidecar.records.file import NO_CHAIN, Header, in_pages
from chio_sidecar.store.driver import UNUSABLE, open_file, sqlite3, trouble
from chio_sidecar.store.hash_chain import FIRST, MEMBERS, follow
from chio_sidecar.store.place import Place
from chio_sidecar.store.schema import APPLICATION_ID
from chio_sidecar.store.statements import ArchiveStatement
from chio_sidecar.store.tables import ARCHIVED, CHAINED

_ROWS_AT_ONCE = 2_000
_IN_TIME = "json_extract(receipt_json, '$.timestamp') BETWEEN ? AND ?"


class Source(ABC):
    """The rows of one hash chain.

    Attributes:
        name: for messages.
        log: number of the log; None for a file.
        base: number of the newest row that was archived, 0 if none was.
        base_digest: its digest.
        archive: name of its archive; empty without one.
    """

    name: str
    log: int | None = None
    base = 0
    base_digest = FIRST
    archive = ""

    @abstractmethod
    def bounds(self, since: int, until: int) -> tuple[int, int] | None:
        """Return the first and the last row that was signed from `since` to `until`, seconds since 1970."""

    @abstractmethod
    def stored(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        """Yield number, members and digest of rows as they are stored; the digest is None in rows older than chains."""

    def rows(self, first: int, last: int, digest: str) -> Iterator[tuple[int, list[str], str]]:
        """Yield number, members and digest of rows; `digest` is that of the row before.

        Raises:
            ConfigurationError: a row is missing, damaged, or not as it was stored.
        """
        expected = first
        for number, *members, stored in self.stored(first, last):
            if number != expected or not all(isinstance(member, str) for member in members):
                raise ConfigurationError(f"row {expected} of {self.name} is damaged; see receipt fsck")
            digest = follow(digest, number, members, stored).digest
            if not digest or stored not in (digest, None) or "\n" in members[1]:
                raise ConfigurationError(f"row {number} of {self.name} is not as it was stored; see receipt fsck")
            yield number, members, digest
            expected += 1
        if expected <= last:
            raise ConfigurationError(f"row {expected} of {self.name} is missing; see receipt fsck")

    def digest_before(self, first: int) -> str:
        """Return the digest of the row before `first`."""
        if first - 1 == self.base:
            return self.base_digest
        for *_, stored in self.stored(first - 1, first - 1):
            if stored is not None:
                return str(stored)
        # The rows before are older than the chain.
        return deque((digest for *_, digest in self.rows(self.base + 1, first - 1, self.base_digest)), maxlen=1).pop()


@contextmanager
def open_sources(place: Place) -> Iterator[list[Source]]:
    """Open what an export of a store is made from: one source for a file, one for each log of a database.

    Raises:
        ConfigurationError: the store cannot be read.
    """
    if not isinstance(place, Path):
        from chio_sidecar.records.export_postgresql import open_logs

        with open_logs(place) as logs:
            yield [*logs]
        return
    try:
        header = Header.read(place)
        if header.application != APPLICATION_ID:
            raise ConfigurationError(f"{place} {NO_CHAIN}")
        with closing(open_file(place, "mode=ro")) as connection:
            yield [_File(connection, place, header.version)]
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot read {place}: {trouble(exc, place)}") from None


class _File(Source):
    def __init__(self, connection: sqlite3.Connection, path: Path, version: int) -> None:
        self._connection = connection
        self.name = str(path)
        digest = "chain" if version >= CHAINED else "NULL"
        self._select = (
            f"SELECT seq, {MEMBERS}, {digest} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"  # noqa: S608
        )
        if version >= ARCHIVED:
            self.base, self.base_digest = connection.execute("SELECT seq, digest FROM receipt_chain_base").fetchone()
            newest = "SELECT statement FROM receipt_archives ORDER BY number DESC LIMIT 1"
            for (statement,) in connection.execute(newest):
                self.archive = ArchiveStatement.read(statement).name

    def bounds(self, since: int, until: int) -> tuple[int, int] | None:
        low, high = self._connection.execute("SELECT min(seq), max(seq) FROM http_receipts").fetchone()
        sql = f"SELECT min(seq), max(seq) FROM http_receipts WHERE seq BETWEEN ? AND ? AND {_IN_TIME}"  # noqa: S608
        first = last = None
        for start in range(low or 0, (high or -1) + 1, _ROWS_AT_ONCE):
            window = (start, min(start + _ROWS_AT_ONCE - 1, high))
            found = self._connection.execute(sql, (*window, since, until)).fetchone()
            first, last = found[0] if first is None else first, last if found[1] is None else found[1]
        return None if first is None or last is None else (first, last)

    def stored(self, first: int, last: int) -> Iterator[tuple[Any, ...]]:
        return in_pages(self._connection, self._select, range(first, last + 1))


FORMAT = "chio-receipt-export/1"

RECEIPTS, CHAIN, MANIFEST = "receipts.ndjson", "chain.ndjson", "manifest.json"
"""The files: one stored text a line; for each row of the store what its digest covers besides that; all about it."""

LOGS_FORMAT = "chio-receipt-export-logs/1"
"""Format of the manifest that lists the logs of a database, each of which has a folder of its own."""

_ALWAYS = (-(2**63), 2**63 - 1)


def write(
    store: Place, target: Path, *, since: int | None, until: int | None, key: SigningKey | None, now: int
) -> dict[str, Any]:
    """Write an export and return its manifest. The folder appears when it is complete.

    It holds every row from the first to the last receipt of that time: rows are in the order of storage, and receipts
    between two of that time are part of the chain. Each log of a database has a chain, and so a folder, of its own.

    Args:
        store: the store of a sidecar, which may run.
        target: the new folder, of mode 0700.
        since: receipts that were signed at this second since 1970 or later; None: from the first on.
        until: at this second or earlier; None: up to the last.
        key: signs the statements about heads; None: they are not signed.
        now: seconds since 1970.

    Returns:
        The manifest of a file. For a database the manifest that lists the logs; its member `exports` has those of logs.

    Raises:
        ConfigurationError: the store cannot be read, a row is damaged, there is no receipt of that time, or the folder
            cannot be written.
    """
    low, high = (_ALWAYS[0] if since is None else since, _ALWAYS[1] if until is None else until)
    about = {"exported_at": now, "since": since, "until": until, "statement": None}
    made: dict[str, dict[str, Any]] = {}
    try:
        with new_folder(target) as draft, open_sources(store) as sources:
            for source in sources:
                if (rows := source.bounds(low, high)) is None:
                    continue
                name = "" if source.log is None else f"log-{source.log}"
                (draft / name).mkdir(mode=0o700, exist_ok=True)
                made[name] = _fill(source, draft / name, rows, about, name=target.name, key=key)
            if not made:
                raise ConfigurationError(f"{store} has no receipt of that time; see receipt list")
            if (manifest := made.get("")) is None:
                # The logs are listed under a signature, so that a log that is missing later is noticed.
                stated = {"format": LOGS_FORMAT, "logs": {name: one["head"] for name, one in made.items()}}
                manifest = stated | about
                if key is not None:
                    body = stated | {"exported_at": now, "kernel_key": key.public_hex}
                    manifest["statement"] = compact_json(body | {"signature": key.sign(canonical_json(body))})
                (draft / MANIFEST).write_text(compact_json(manifest) + "\n", encoding="utf-8")
                manifest = manifest | {"exports": made}
            signers = dict.fromkeys(entry["kernel_key"] for one in made.values() for entry in one["keys"])
            options = "".join(f" --trusted-key {signer}" for signer in signers)
            (draft / "README.md").write_text(README.format(name=target.name, options=options), encoding="utf-8")
    except OSError as exc:
        raise ConfigurationError(f"cannot export {store} to {target}: {exc.strerror}") from None
    return manifest


def _fill(
    source: Source, folder: Path, rows: tuple[int, int], about: dict[str, Any], *, name: str, key: SigningKey | None
) -> dict[str, Any]:
    """Write the three files of one chain, and return its manifest."""
    (first, last), since = rows, about["since"]
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
                raise ConfigurationError(f"row {number} of {source.name} holds no receipt; see receipt fsck") from None
            if number == first == source.base + 1 > 1 and (since is None or signed_at >= since):
                newest = f", the newest of them in {source.archive}" if source.archive else ""
                left_out = f"receipts 1 to {source.base}, which are archived{newest}: export them from there"
            entry = keys.setdefault(signer, {"kernel_key": signer, "first": number, "receipts": 0})
            entry |= {"last": number, "receipts": entry["receipts"] + 1}
    manifest = {
        "format": FORMAT,
        "complete": left_out is None,
        "left_out": left_out,
        "rows": {"first": first, "last": last},
        "before": before,
        "head": head,
        "keys": list(keys.values()),
    } | about
    if key is not None:
        statement = ArchiveStatement(name, first, last, head, about["exported_at"], key.public_hex)
        manifest["statement"] = statement.signed_by(key)
    (folder / MANIFEST).write_text(compact_json(manifest) + "\n", encoding="utf-8")
    return manifest


README = """\
# Receipts: {name}

Each receipt is the signed record of one decision about one HTTP request: whether it was allowed to run, and why.

- `receipts.ndjson`: one receipt a line, byte for byte as it was stored; or the signed record of its erasure.
- `chain.ndjson`: for each receipt the row of the store that held it: number, ids, fingerprint, time of storage, digest.
- `manifest.json`: the time and the rows of this export, the digest before its first row, the head, which keys signed
  which rows, whether the export is complete, and a signed statement about the head.

Sidecars that share a database have a log each. Then each log has these three files in a folder `log-N`, and the
`manifest.json` beside the folders lists them and their heads, with a signed statement about that.

## Verify

    chio-sidecar receipt verify{options} {name}

Compare the keys with keys that you know from elsewhere first: an export cannot vouch for itself. The command verifies
each signature, follows the chain from `before` to `head`, and refuses an export in which receipts are missing.

Exit status 0: every receipt is valid, and none is missing. 1: something was changed. 3: what is here is valid, and
receipts are missing.

## Verify without the command

- A receipt's `signature` is Ed25519 (RFC 8032), by `kernel_key`, over the canonical JSON (RFC 8785) of the receipt
  without its member `signature`, and without optional members that are null or empty lists.
- A number is 8 bytes, big-endian. A text is the number of its UTF-8 bytes, then these bytes.
- A row's content is SHA-256 over the bytes `chio.receipt-store.content.v1` and a zero byte, then as texts: the
  receipt's line, fingerprint.
- A row's digest is SHA-256 over the bytes `chio.receipt-store.row.v2` and a zero byte, then the digest of the row
  before as a text, the row's number, and as texts: id, content, request id, time of storage.
- Earlier versions made another digest: SHA-256 over the bytes `chio.receipt-store.row.v1` and a zero byte, then the
  digest of the row before as a text, the row's number, and as texts: id, the receipt's line, request id, fingerprint,
  time of storage.
- In the place of an erased receipt is the record of that, whose `format` is `chio-receipt-erasure/1`, and the row has
  an empty fingerprint. The record states the row's `content`, and its `signature` is made as a receipt's. If its member
  `form` is 1, an earlier version has stored the row, and the digest follows from nothing that is left: then the record
  states that `digest`, and the digest of the row before, `previous`, and only its signature vouches for the link.
- Before the first row of a store the digest is SHA-256 over `chio.receipt-store.first.v1` and a zero byte.
- The statement's `signature` is made as a receipt's. Its members name the first and the last row, and the head.

## What it shows

Since the head was stated, no receipt between the first and the last row was changed, removed or added. The holder
of the key can sign another history: compare the head with one that was kept elsewhere at that time, if there is one. A
receipt states the decision. Whether the application acted on it is in the application's own records.
"""
