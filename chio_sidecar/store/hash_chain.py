"""The hash chain over the rows of a receipt store, the same for every backend.

Each row carries a digest, so a row that is changed, removed, inserted or moved no longer matches its neighbours:

    digest(n) = SHA-256( DOMAIN | text(digest(n - 1)) | number(n) | text(receipt id) | text(content(n))
                       | text(request id) | text(created_at) )
    content(n) = SHA-256( CONTENT_DOMAIN | text(receipt JSON) | text(fingerprint) )
    digest(0) = SHA-256( FIRST_DOMAIN )

`n` is the row's sequence, `number` 8 bytes big-endian, signed, `text` the number of its UTF-8 bytes as `number` and
then these bytes; digests are 64 lower-case hex digits, and a text in the next one. The newest digest is the head: a
copy of it proves later that no row before it was changed.

The JSON and the fingerprint of a receipt can be erased: `content` stays, in a signed record in their place
(`erasure`), and the digest follows from it as before. Nobody can guess the JSON from its hash, because it ends with a
signature; the hash of the fingerprint alone would not hide it.

Rows of earlier versions have digests that cover the JSON itself:

    digest(n) = SHA-256( EARLIER_DOMAIN | text(digest(n - 1)) | number(n) | text(receipt id) | text(receipt JSON)
                       | text(request id) | text(fingerprint) | text(created_at) )

If such a row is erased, its digest follows from nothing that is left. The record states it and the digest of the row
before, so the link between these two rows rests on the signature of the record.

Rows of still older versions have no digest in the file. They are part of the chain, in their order, with the earlier
form: the digest of the last of them is stored as the start, and the first new row continues from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from chio_core.errors import InvalidDocument
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.statements import FINGERPRINT, Erasure, is_erasure

DOMAIN = b"chio.receipt-store.row.v2\x00"
CONTENT_DOMAIN = b"chio.receipt-store.content.v1\x00"
EARLIER_DOMAIN = b"chio.receipt-store.row.v1\x00"
FIRST_DOMAIN = b"chio.receipt-store.first.v1\x00"

EARLIER_FORM, FORM = 1, 2
"""The form of a digest by `earlier_link`, and by `link`."""

FIRST = hashlib.sha256(FIRST_DOMAIN).hexdigest()
"""`digest(0)`."""


def link(previous: str, sequence: int, members: Sequence[str]) -> str:
    """Return the digest of a new row.

    Args:
        previous: digest of the row before, `FIRST` for the first row.
        sequence: the row's number, -2**63 to 2**63 - 1.
        members: receipt id, receipt JSON, request id, fingerprint and `created_at`, as stored.

    Raises:
        UnicodeEncodeError: one of them has no UTF-8.
    """
    receipt_id, text, request_id, fingerprint, created_at = members
    return _link(DOMAIN, previous, sequence, receipt_id, content_of(text, fingerprint), request_id, created_at)


def earlier_link(previous: str, sequence: int, members: Sequence[str]) -> str:
    """Return the digest of a row as earlier versions made it; see `link`."""
    return _link(EARLIER_DOMAIN, previous, sequence, *members)


def content_of(text: str, fingerprint: str) -> str:
    """Return the hash of what of a row can be erased.

    Raises:
        UnicodeEncodeError: one of them has no UTF-8.
    """
    return hashlib.sha256(CONTENT_DOMAIN + _text(text) + _text(fingerprint)).hexdigest()


@dataclass(frozen=True, slots=True)
class Followed:
    """The digest that a stored row must have.

    Attributes:
        digest: empty if no digest can be right.
        form: `FORM` or `EARLIER_FORM`.
        erasure: the record in the place of its receipt, None if it has its receipt, or the record does not count.
    """

    digest: str
    form: int = EARLIER_FORM
    erasure: Erasure | None = None

    @property
    def by_signature(self) -> bool:
        """True if the digest is only stated by that record, and does not follow from what is left of the row."""
        return self.erasure is not None and self.form == EARLIER_FORM


def follow(previous: str, sequence: int, members: Sequence[str], stored: object) -> Followed:
    """Return the digest that a row must have, in whichever form it was stored.

    Args:
        previous: digest of the row before.
        sequence: the row's number.
        members: as for `link`, as they are stored now.
        stored: the row's own digest; None in a row from before the chain.

    Raises:
        UnicodeEncodeError: one of the members has no UTF-8.
    """
    receipt_id, text, request_id, fingerprint, created_at = members
    if not is_erasure(text):
        if stored is not None and link(previous, sequence, members) == stored:
            return Followed(str(stored), FORM)
        return Followed(earlier_link(previous, sequence, members))
    try:
        erasure = Erasure.read(text)
    except InvalidDocument:
        return Followed("")
    said = (erasure.row, erasure.id, erasure.request_id, FINGERPRINT, erasure.created_at)
    if said != (sequence, receipt_id, request_id, fingerprint, created_at):
        return Followed("")
    if erasure.form == EARLIER_FORM:
        fits = erasure.previous == previous and stored in (erasure.digest, None)
        return Followed(erasure.digest, EARLIER_FORM, erasure) if fits else Followed("")
    digest = _link(DOMAIN, previous, sequence, receipt_id, erasure.content, request_id, created_at)
    return Followed(digest, FORM, erasure) if digest == stored else Followed("")


def _link(domain: bytes, previous: str, sequence: int, *members: str) -> str:
    parts = [domain, _text(previous), sequence.to_bytes(8, "big", signed=True), *map(_text, members)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _text(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(8, "big") + raw


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
        digest = earlier_link(digest, sequence, members)
    connection.execute("INSERT INTO receipt_chain_start VALUES (?, ?)", (sequence, digest))
    connection.execute("INSERT INTO receipt_chain_head VALUES (1, ?, ?)", (sequence, digest))
