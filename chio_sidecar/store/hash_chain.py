"""The hash chain over the rows of a receipt store: what it says, for every backend.

Each row carries a digest, so a row that is changed, taken out, put in or moved no longer fits to its neighbours:

    digest(n) = SHA-256( DOMAIN | text(digest(n - 1)) | number(n) | text(receipt id) | text(receipt JSON)
                       | text(request id) | text(fingerprint) | text(created_at) )
    digest(0) = SHA-256( FIRST_DOMAIN )

`n` is the row's sequence, `number` 8 bytes big-endian, signed, `text` the number of its UTF-8 bytes as `number` and
then these bytes; digests are 64 lower-case hex digits, and a text in the next one. The newest digest is the head: who
keeps it elsewhere can tell later that no row before it was changed.

Rows from before the chain have no digest of their own. They are chained all the same, in their order: the digest of the
last of them is kept as the start, and the first new row follows on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

DOMAIN = b"chio.receipt-store.row.v1\x00"
FIRST_DOMAIN = b"chio.receipt-store.first.v1\x00"

FIRST = hashlib.sha256(FIRST_DOMAIN).hexdigest()
"""What the first row follows on."""


def link(previous: str, sequence: int, members: Sequence[str]) -> str:
    """Return the digest of a row.

    Args:
        previous: digest of the row before, `FIRST` where there is none.
        sequence: the row's number, -2**63 to 2**63 - 1.
        members: receipt id, receipt JSON, request id, fingerprint and `created_at`, as they are stored.

    Raises:
        UnicodeEncodeError: one of them has no UTF-8.
    """
    hashed = hashlib.sha256(DOMAIN + _text(previous) + _number(sequence))
    for member in members:
        hashed.update(_text(member))
    return hashed.hexdigest()


def _text(value: str) -> bytes:
    raw = value.encode()
    return _number(len(raw)) + raw


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)
