"""The hash chain in SQLite: where it starts in a file, and its end while a transaction adds rows to it.

A row of `http_receipts` has its digest in `chain`. `receipt_chain_start` says, in one row that stays, which row was
the last without one. `receipt_chain_head` names the newest row: a trigger moves it with each new row, and none lets
it go back, so rows that are gone from the end are missed.
"""

from __future__ import annotations

import sqlite3

from chio_sidecar.store.hash_chain import FIRST, link

MEMBERS = "id, receipt_json, request_id, fingerprint, created_at"
"""The columns that a digest covers, in its order."""

_UNCHAINED = f"SELECT seq, {MEMBERS} FROM http_receipts ORDER BY seq"  # noqa: S608 - only constants are put together
_HEAD = "SELECT seq, digest, (SELECT ifnull(max(seq), 0) FROM http_receipts) FROM receipt_chain_head"


def start_chain(connection: sqlite3.Connection) -> None:
    """Mark in a file without a chain where it starts, inside the open transaction; the rows stay as they are.

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


class ChainEnd:
    """Where the next row goes; read once in each transaction, in which nobody else can write.

    Args:
        connection: the writer's, its transaction begun.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._end: tuple[int, str] | None = None

    def read(self) -> tuple[int, str]:
        """Return sequence and digest of the newest row.

        Raises:
            sqlite3.DatabaseError: rows are missing at the end of the store, or were added without a chain.
        """
        if self._end is None:
            found = self._connection.execute(_HEAD).fetchone()
            if found is None or found[0] != found[2]:
                raise sqlite3.DatabaseError("its newest rows are not those that were stored; see receipt fsck")
            self._end = (found[0], found[1])
        return self._end

    def move(self, sequence: int, digest: str) -> None:
        """Take the newest row along, once it is inserted."""
        self._end = (sequence, digest)
