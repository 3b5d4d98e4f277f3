"""A file that is rewritten, and one that is read in windows of row ids: never both at once.

SQLite's VACUUM may give the rows of a table other row ids, so a backup or a rotation that reads one window after the
other would miss rows, or copy them twice. Both hold a lock on the folder of the file, not on the file: whoever closes
a descriptor of that one drops the locks that SQLite has on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chio_core.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def unmoved(store: Path) -> Iterator[None]:
    """Keep the row ids of a store as they are until the block ends.

    Raises:
        ConfigurationError: the file is being rewritten.
    """
    with _locked(store, alone=False) as is_locked:
        if not is_locked:
            raise ConfigurationError(
                f"{store} is being rewritten by receipt erase --vacuum; try again when that has ended"
            )
        yield


@contextmanager
def rewriting(store: Path) -> Iterator[None]:
    """Let nothing read a store in windows of row ids until the block ends.

    Raises:
        ConfigurationError: a backup or a rotation of a store in this folder runs.
    """
    with _locked(store, alone=True) as is_locked:
        if not is_locked:
            raise ConfigurationError(
                f"a backup or a rotation runs in {store.resolve().parent}, and --vacuum would move the rows that it"
                " reads; nothing was erased: try again when that has ended, or leave --vacuum out if the file is not"
                " compressed"
            )
        yield


@contextmanager
def _locked(store: Path, *, alone: bool) -> Iterator[bool]:
    """Give True with a lock on the folder, which is shared unless `alone`; False if there is one that excludes it.

    A file system without such locks, or a folder that cannot be read, is taken for one without others.
    """
    descriptor = -1
    is_locked = True
    try:
        if fcntl is not None:
            with suppress(OSError):
                descriptor = os.open(store.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)  # a link may name the file
                try:
                    fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                except BlockingIOError:
                    is_locked = False
        yield is_locked
    finally:
        if descriptor >= 0:
            os.close(descriptor)
