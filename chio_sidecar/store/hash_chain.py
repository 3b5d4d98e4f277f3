"""The hash chain over the rows of a receipt store, the same for every backend.

Each row carries a digest, so a row that is changed, removed, inserted or moved no longer matches its neighbours:

    digest(n) = SHA-256( DOMAIN | text(digest(n - 1)) | number(n) | text(receipt id) | text(receipt JSON)
                       | text(request id) | text(fingerprint) | text(created_at) )
    digest(0) = SHA-256( FIRST_DOMAIN )

`n` is the row's sequence, `number` 8 bytes big-endian, signed, `text` the number of its UTF-8 bytes as `number` and
then these bytes; digests are 64 lower-case hex digits, and a text in the next one. The newest digest is the head: a
copy of it proves later that no row before it was changed.

Rows of older schema versions have no digest in the file. They are part of the chain, in their order: the digest of the
last of them is stored as the start, and the first new row continues from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from chio_sidecar.store.driver import sqlite3

DOMAIN = b"chio.receipt-store.row.v1\x00"
FIRST_DOMAIN = b"chio.receipt-store.first.v1\x00"

FIRST = hashlib.sha256(FIRST_DOMAIN).hexdigest()
"""`digest(0)`."""


def link(previous: str, sequence: int, members: Sequence[str]) -> str:
    """Return the digest of a row.

    Args:
        previous: digest of the row before, `FIRST` for the first row.
        sequence: the row's number, -2**63 to 2**63 - 1.
        members: receipt id, receipt JSON, request id, fingerprint and `created_at`, as stored.

    Raises:
        UnicodeEncodeError: one of them has no UTF-8.
    """
    raw = previous.encode()
    parts = [DOMAIN, len(raw).to_bytes(8, "big"), raw, sequence.to_bytes(8, "big", signed=True)]
    for member in members:
        raw = member.encode()
        parts += (len(raw).to_bytes(8, "big"), raw)
    return hashlib.sha256(b"".join(parts)).hexdigest()


MEMBERS = "id, receipt_json, request_id, fingerprint, created_at"
"""The columns that a digest covers, in its order."""

_UNCHAINED = f"SELECT seq, {MEMBERS} FROM http_receipts ORDER BY seq"  # noqa: S608 - only constants are put together


def start_chain(connection: sqlite3.Connection) -> None:
    """Store the start of the chain in a file without one, inside the open transaction; no row changes.

    Raises:
        sqlite3.Error: the file cannot be written, or one of its rows cannot be read.
    """
    sequence, digest = 0, FIRST
    for sequence, *members in connection.execute(_UNCHAINED):
        if not all(isinstance(member, str) for member in members):
            raise sqlite3.DatabaseError(f"row {sequence} of http_receipts is damaged")
        digest = link(digest, sequence, members)
    connection.execute("INSERT INTO receipt_chain_start VALUES (?, ?)", (sequence, digest))
    connection.execute("INSERT INTO receipt_chain_head VALUES (1, ?, ?)", (sequence, digest))
