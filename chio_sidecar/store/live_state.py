"""Tell the live state of a store from its log, and notice that a store with live state is gone.

The log is the receipts: history, which can be archived. The live state is what the next decision depends on, so a store
that is moved away takes it back: a revoked capability is valid again, a spent budget is full. A mark beside the store,
written before the first such record, outlives the file, and no new store is made in its place.
"""

from __future__ import annotations

from pathlib import Path

from chio_core.errors import ConfigurationError
from chio_sidecar.private_files import create_private
from chio_sidecar.store.driver import sqlite3
from chio_sidecar.store.writes import Append, Probe, Write

_ANY = """
SELECT EXISTS (SELECT 1 FROM revoked_capabilities) OR EXISTS (SELECT 1 FROM capability_invocations)
    OR EXISTS (SELECT 1 FROM budget_charges) OR EXISTS (SELECT 1 FROM chio_hitl_pending)
"""

_TEXT = """\
Revocations, budgets or approvals were recorded in {name}.
While this file is here, no new {name} is made, which would not know them.
"""


def mark_of(path: Path) -> Path:
    """Return the path of the mark of a store."""
    return path.with_name(path.name + ".state")


def mark(path: Path) -> None:
    """Write the mark of a store unless it is there; it is on the disk afterwards.

    Raises:
        sqlite3.OperationalError: it cannot be written; nothing may be recorded then.
    """
    if mark_of(path).exists():
        return
    try:
        create_private(mark_of(path), _TEXT.format(name=path.name).encode())
    except OSError as exc:
        error = sqlite3.OperationalError(f"{mark_of(path)} cannot be written: {exc.strerror}")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN  # the file system's trouble, and not damage
        raise error from None


def records_state(work: Write) -> bool:
    """Return True if a piece of work may add to the live state."""
    if isinstance(work, Append):
        return work.entry.invocation is not None or bool(work.entry.obligations)
    return not isinstance(work, Probe)


def has_state(connection: sqlite3.Connection) -> bool:
    """Return True if a store of the newest version has live state.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    return bool(connection.execute(_ANY).fetchone()[0])


def check_not_lost(path: Path, what: str = "receipt store") -> None:
    """Return if a new store may be made at `path`.

    Args:
        path: where there is no file, or an empty one.
        what: what the store is, for the message.

    Raises:
        ConfigurationError: the mark says that there was one with live state.
    """
    if mark_of(path).exists():
        raise ConfigurationError(
            f"{what} {path} is gone, and {mark_of(path)} says that revocations, budgets or approvals were recorded in"
            " it, which a new one would not know; put the file or a backup back, or remove that mark to start without"
            " them"
        )
