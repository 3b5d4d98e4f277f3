"""Erase receipts from a store or an archive, while a sidecar writes to it.

The text of a receipt and its fingerprint are replaced by a signed record (`erasure`), all receipts of one call in one
transaction. Row number, ids, time of storage and digest stay, so the chain, the number of rows, budgets, uses and
approvals stay as they are, and a repeated request id is a conflict.

SQLite overwrites the old bytes with zeros, and empties its journal or write-ahead log. Room that it gave up before may
hold an older copy: of the first rows, since its tree of pages got a second level. `remains` looks for such copies.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey
from chio_sidecar.store.compressed import is_compressed, rewritten
from chio_sidecar.store.driver import UNUSABLE, has_log, open_file, sqlite3, transaction, trouble
from chio_sidecar.store.hash_chain import MEMBERS, content_of, follow
from chio_sidecar.store.rewriting import rewriting
from chio_sidecar.store.schema import connect, disconnect, journal_for, recognise
from chio_sidecar.store.statements import FINGERPRINT, ArchiveStatement, Erasure
from chio_sidecar.store.tables import ARCHIVED, ERASABLE, upgrade

_ROW = f"SELECT seq, chain, {MEMBERS} FROM http_receipts WHERE id = ?"  # noqa: S608 - only constants, here and below
_ROWS = f"SELECT seq, chain, {MEMBERS} FROM http_receipts WHERE seq BETWEEN ? AND ? ORDER BY seq"  # noqa: S608
_REPLACE = "UPDATE http_receipts SET receipt_json = ?, fingerprint = ? WHERE seq = ?"
_STATEMENTS = "SELECT statement FROM receipt_archives WHERE seq >= ? ORDER BY number"
_NEWEST = "SELECT (SELECT max(seq) FROM receipt_archives), (SELECT seq FROM receipt_chain_head)"
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Erased:
    """An erased receipt.

    Attributes:
        erasure: the record in its place.
        signature: the receipt's own signature (hex), which no other text holds; empty if it was erased before.
        archives: names of archives that have the row, by the statements in the store; of an archive also its own.
    """

    erasure: Erasure
    signature: str
    archives: tuple[str, ...]


Sign = Callable[[str, int, object, Sequence[str], str, Sequence[str]], tuple[Erased, str | None]]


def signer(key: SigningKey, *, reason: str, now: int) -> Sign:
    """Return a function that makes the record of a row.

    It takes the store's name for messages; number, digest and members of the row; the digest of the row before; and
    the statements about archives that have the row. It returns what is erased, and the new text: None if the row has
    its record already. It raises ConfigurationError if the row is not as it was stored: such a row is evidence.
    """

    def sign(
        name: str, row: int, stored: object, members: Sequence[str], previous: str, statements: Sequence[str]
    ) -> tuple[Erased, str | None]:
        damaged = ConfigurationError(f"row {row} of {name} is not as it was stored; see receipt fsck")
        if not all(isinstance(member, str) for member in members):
            raise damaged
        followed = follow(previous, row, members, stored)
        if not followed.digest or stored not in (followed.digest, None):
            raise damaged
        archives: tuple[str, ...] = ()
        for statement in statements:
            with suppress(InvalidDocument):  # receipt fsck finds it
                said = ArchiveStatement.read(statement)
                if said.first <= row <= said.last and said.name not in archives:
                    archives += (said.name,)
        if followed.erasure is not None:
            return Erased(followed.erasure, "", archives), None
        receipt_id, text, request_id, fingerprint, created_at = members
        try:
            receipt: Any = parse_json(text)
            signed_at, signature = receipt["timestamp"], receipt["signature"]
        except (InvalidDocument, KeyError, TypeError):
            raise damaged from None
        if type(signed_at) is not int or not isinstance(signature, str):
            raise damaged
        erasure = Erasure(
            id=receipt_id,
            request_id=request_id,
            timestamp=signed_at,
            created_at=created_at,
            row=row,
            receipt_sha256=hashlib.sha256(text.encode()).hexdigest(),
            content=content_of(text, fingerprint),
            previous=previous,
            digest=followed.digest,
            form=followed.form,
            erased_at=now,
            reason=reason,
            kernel_key=key.public_hex,
        )
        return Erased(erasure, signature, archives), erasure.signed_by(key)

    return sign


def check(store: Path) -> None:
    """Return if a file is a store, before anything else opens it; undo what an erasure that was killed has begun.

    Readers cannot undo that. The sidecar does it for its store, and nothing else does it for an archive.

    Raises:
        ConfigurationError: the file is no store, cannot be read, or is of another version.
    """
    # With a write-ahead log there is nothing to undo, and a writing connection would remove one of another file.
    mode = "rw" if os.access(store, os.W_OK) and not has_log(store) and not is_compressed(store) else "ro"
    try:
        with closing(open_file(store, f"mode={mode}")) as connection:
            if recognise(connection, store) == 0:
                raise ConfigurationError(f"there is no receipt store at {store}; name the sidecar's file")
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot read {store} as a receipt store: {trouble(exc, store)}") from None


def erase(
    store: Path,
    ids: Sequence[str],
    sign: Sign,
    *,
    vacuum: bool = False,
    busy_seconds: float = 30.0,
    version: tuple[int, ...] = sqlite3.sqlite_version_info,
) -> tuple[list[Erased], bool]:
    """Erase receipts, all of them or none.

    Args:
        store: the SQLite file, a store or an archive; a sidecar may be writing to it.
        ids: of the receipts.
        sign: of `signer`.
        vacuum: rewrite the file afterwards, which takes an exclusive lock as long as that lasts; refused while a
            backup or a rotation reads a store in this folder. A compressed file is always rewritten.
        busy_seconds: how long to wait for another process that holds the file.
        version: the SQLite version, which decides the journal mode.

    Returns:
        What was erased, and False if a write-ahead log still has the old bytes, because another process reads.

    Raises:
        ConfigurationError: the file cannot be written, is of an earlier version, has no such receipt, or a row is not
            as it was stored; nothing was erased.
    """
    journal = journal_for(version)
    try:
        mode = store.stat().st_mode
        with ExitStack() as stack:
            if vacuum or is_compressed(store):
                stack.enter_context(rewriting(store))
            file = store
            if is_compressed(store):
                file, vacuum = stack.enter_context(rewritten(store)), True
            elif not mode & 0o200:
                store.chmod(0o600)  # an archive
                stack.callback(store.chmod, mode & 0o7777)
            connection = connect(file, journal=journal, busy_seconds=busy_seconds)
            try:
                connection.execute("PRAGMA secure_delete=ON")
                connection.execute("PRAGMA journal_size_limit=0")  # the commit empties a rollback journal
                erased = _erase(connection, store, ids, sign)
                if vacuum:
                    connection.execute("VACUUM")
                (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                disconnect(connection)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {store}: {exc.strerror}") from None
    except UNUSABLE as exc:
        raise ConfigurationError(f"cannot erase in {store}: {trouble(exc, store)}") from None
    return erased, not busy


def _erase(connection: sqlite3.Connection, store: Path, ids: Sequence[str], sign: Sign) -> list[Erased]:
    with transaction(connection):
        _make_erasable(connection, store)
        erased = []
        for receipt_id in dict.fromkeys(ids):
            found = connection.execute(_ROW, (receipt_id,)).fetchone()
            if found is None:
                raise ConfigurationError(f"no receipt {receipt_id} in {store}; nothing was erased")
            row, stored, *members = found
            statements = [text for (text,) in connection.execute(_STATEMENTS, (row,))]
            one, text = sign(str(store), row, stored, members, _digest_before(connection, row), statements)
            if text is not None:
                connection.execute(_REPLACE, (text, FINGERPRINT, row))
            erased.append(one)
    return erased


def _make_erasable(connection: sqlite3.Connection, store: Path) -> None:
    """Upgrade an archive of an earlier version, which no sidecar opens."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= ERASABLE:
        return
    if version >= ARCHIVED:
        archived, newest = connection.execute(_NEWEST).fetchone()
        if archived == newest:
            upgrade(connection, version)
            return
    raise ConfigurationError(
        f"receipt store {store} has schema version {version}, and an erasure needs {ERASABLE}; start the sidecar of"
        " this version once, which upgrades the file"
    )


def _digest_before(connection: sqlite3.Connection, row: int) -> str:
    number, digest = connection.execute("SELECT seq, digest FROM receipt_chain_base").fetchone()
    if row - 1 == number:
        return str(digest)
    before = connection.execute("SELECT chain FROM http_receipts WHERE seq = ?", (row - 1,)).fetchone()
    if before is not None and before[0] is not None:
        return str(before[0])
    # The rows before are older than the chain.
    for sequence, stored, *members in connection.execute(_ROWS, (number + 1, row - 1)):
        digest = follow(digest, sequence, members, stored).digest
    return str(digest)


def remains(store: Path, erased: Sequence[Erased]) -> list[Path]:
    """Return the files of a SQLite store in which the bytes of an erased receipt are still found.

    Looks for both halves of each receipt's signature in the file, its journal and its write-ahead log. To be called in
    a process that has the store not open: closing a file drops its locks.

    Raises:
        OSError: one of them cannot be read.
    """
    needles = [half.encode() for one in erased if one.signature for half in (one.signature[:64], one.signature[64:])]
    found = []
    for path in (store, *(store.with_name(store.name + end) for end in ("-journal", "-wal"))):
        if not needles or not path.exists():
            continue
        with path.open("rb") as file:
            before = b""
            while chunk := file.read(_CHUNK):
                if any(needle in before + chunk for needle in needles):
                    found.append(path)
                    break
                before = chunk[-64:]
    return found
