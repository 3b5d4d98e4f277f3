"""Erase receipts from a database, as its owner or as a role that can do nothing else, while sidecars write to it.

It follows the erasure in a file (`chio_sidecar.store.erase`). The old version of a row stays in the table until VACUUM,
and in the write-ahead log, standbys and backups.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from chio_core.errors import ConfigurationError
from chio_sidecar.store.erase import Erased, Sign
from chio_sidecar.store.hash_chain import FIRST, MEMBERS
from chio_sidecar.store.place import DatabasePlace
from chio_sidecar.store.postgresql.connection import Connection, DatabaseError, connect, trouble
from chio_sidecar.store.postgresql.schema import check
from chio_sidecar.store.statements import FINGERPRINT

_SECONDS = 60.0
"""How long all of it may take."""

# In one order, so that two erasures do not wait for each other.
_ROWS = f"""
SELECT log_id, seq, chain, {MEMBERS} FROM chio.http_receipts WHERE id = ANY(%s) ORDER BY position FOR UPDATE
"""  # noqa: S608 - only constants
_BEFORE = """
SELECT chain FROM chio.http_receipts WHERE log_id = %(log)s AND seq = %(row)s
UNION ALL SELECT digest FROM chio.receipt_chain_base WHERE log_id = %(log)s AND seq = %(row)s
"""
_STATEMENTS = "SELECT statement FROM chio.receipt_archives WHERE log_id = %s AND seq >= %s ORDER BY number"
_REPLACE = "UPDATE chio.http_receipts SET receipt_json = %s, fingerprint = %s WHERE log_id = %s AND seq = %s"
_SIGNED = "SELECT EXISTS (SELECT FROM chio.kernel_keys WHERE kernel_key = %s)"


def signs(place: DatabasePlace, key: str) -> bool:
    """Return True if a key (hex) has signed receipts of a log, by the history of keys.

    Raises:
        ConfigurationError: the database cannot be read.
    """
    try:
        with closing(connect(place, seconds=_SECONDS)) as connection:
            check(connection, place.shown)
            return connection.execute(_SIGNED, (key,)).fetchone() == (True,)
    except DatabaseError as exc:
        raise ConfigurationError(f"cannot read {place.shown}: {trouble(exc) or exc}") from None


def erase(place: DatabasePlace, ids: Sequence[str], sign: Sign) -> list[Erased]:
    """Erase receipts, all of them or none.

    Args:
        place: the database, as its owner, or as the role of erasures.
        ids: of the receipts.
        sign: of `chio_sidecar.store.erase.signer`.

    Raises:
        ConfigurationError: the role may not erase, there is no such receipt, or a row is not as it was stored; nothing
            was erased.
    """
    try:
        with closing(connect(place, seconds=_SECONDS)) as connection:
            check(connection, place.shown)
            with connection.transaction():
                return _erase(connection, place, list(dict.fromkeys(ids)), sign)
    except DatabaseError as exc:
        if exc.sqlstate == "42501":
            raise ConfigurationError(
                f"this role may not erase receipts of {place.shown}: {exc}; erase as the owner of the tables, or give a"
                " role its rights: chio-sidecar store migrate --erase-role"
            ) from None
        raise ConfigurationError(f"cannot erase in {place.shown}: {trouble(exc) or exc}") from None


def _erase(connection: Connection, place: DatabasePlace, ids: list[str], sign: Sign) -> list[Erased]:
    rows = connection.execute(_ROWS.encode(), (ids,)).fetchall()
    missing = set(ids).difference(str(row[3]) for row in rows)
    if missing:
        raise ConfigurationError(f"no receipt {min(missing)} in {place.shown}; nothing was erased")
    erased = []
    for log, row, stored, *members in rows:
        before: tuple[Any, ...] | None = connection.execute(_BEFORE, {"log": log, "row": row - 1}).fetchone()
        if before is None and row != 1:
            raise ConfigurationError(f"row {row - 1} of log {log} of {place.shown} is missing; see receipt fsck")
        previous = FIRST if before is None else str(before[0])
        statements = [text for (text,) in connection.execute(_STATEMENTS, (log, row))]
        one, text = sign(f"log {log} of {place.shown}", row, stored, members, previous, statements)
        if text is not None:
            connection.execute(_REPLACE, (text, FINGERPRINT, log, row))
        erased.append(one)
    return erased
