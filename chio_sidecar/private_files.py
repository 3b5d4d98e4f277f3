"""Files that only their owner may use: signing keys, stores, and the databases of the trust service.

One module checks and creates all of them. A user who owns such a file, or can replace it in its folder, can sign
like the sidecar or take its revocations back.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chio_core.errors import ConfigurationError

log = logging.getLogger(__name__)


def check_private(path: Path, what: str) -> os.stat_result | None:
    """Check a file by its name, without opening it: closing a descriptor would drop SQLite's locks on it.

    Args:
        path: the file.
        what: what it is, for messages, for example `receipt store`.

    Returns:
        Its status; None if there is no such file.

    Raises:
        ConfigurationError: it is a link, no regular file, or owned by another user than this one or the superuser.
        OSError: its status cannot be read.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    check_status(found, path, what)
    check_folder(path, what)
    return found


def check_status(found: os.stat_result, path: Path, what: str) -> None:
    """Check the status of a file that is open, or that `lstat` has returned.

    Raises:
        ConfigurationError: as `check_private`.
    """
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(f"{what} {path} is a symbolic link; name the file that it leads to")
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(f"{what} {path} is no regular file; name another one")
    if found.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"{what} {path} is owned by user {found.st_uid}, who can read and replace it; run this command as that user"
            f" (sudo -u '#{found.st_uid}' …). Only if its sidecar is to run as this user: chown {os.geteuid()} {path}"
        )


def check_folder(path: Path, what: str) -> None:
    """Warn if other users can replace a file in its folder. A sticky folder such as /tmp keeps them from that."""
    if (reason := folder_risk(path.absolute().parent)) is not None:
        log.warning("%s %s: %s", what, path, reason)


def folder_risk(folder: Path) -> str | None:
    """Return how other users can replace files of a folder; None if they cannot, or if it cannot be read."""
    try:
        found = folder.stat()
    except OSError:
        return None
    if found.st_uid not in (os.geteuid(), 0):
        return f"its folder {folder} is owned by user {found.st_uid}, who can replace the file"
    if found.st_mode & stat.S_ISVTX:
        return None
    if found.st_mode & stat.S_IWOTH:
        return f"every user can write to its folder {folder}, and so replace the file; run: chmod o-w {folder}"
    if found.st_mode & stat.S_IWGRP and found.st_gid not in (os.getegid(), 0):
        return (
            f"group {found.st_gid} can write to its folder {folder}, and so replace the file; run: chmod g-w {folder}"
        )
    return None


def create_private(path: Path, content: bytes = b"") -> bool:
    """Create a file of mode 0600 that appears at once and whole, and is on the disk then.

    It is written as a draft and linked to its name: processes that start together agree on one file, and a crash leaves
    none or a complete one.

    Returns:
        False if the name was taken meanwhile: the other file counts.

    Raises:
        OSError: it cannot be created.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            if content:
                os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        created = False
        with suppress(FileExistsError):
            os.link(draft, path)
            created = True
    finally:
        os.unlink(draft)
    sync_folder(path.parent)
    return created


def replace_private(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 in the place of another one, which is there whole until the new one is.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    create_private(draft, content)
    os.replace(draft, path)
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder of mode 0700 to fill; after the block it appears whole under its name.

    Raises:
        ConfigurationError: the name is taken.
        OSError: it cannot be created.
    """
    if path.exists() or path.is_symlink():
        raise ConfigurationError(f"cannot write {path}: it exists; name a new folder")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        draft.mkdir(mode=0o700)
        yield draft
        os.rename(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Without this a crash may lose a new name, and receipts signed meanwhile would name a key that no longer exists.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
