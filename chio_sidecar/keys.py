"""The durable signing key: one line of 64 hex digits in a file that only its owner may read; and ids of receipts."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from ulid import ULID

from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey
from chio_sidecar.private_files import check_private, check_status, create_private

_LENGTH = 65
_SOME_MORE = 1024


def key_beside(store: Path) -> Path:
    """Return the default path of the key of a store.

    Raises:
        ConfigurationError: the path of the store names a folder, such as `.`.
    """
    try:
        return store.with_name(store.name + ".key")
    except ValueError:
        raise ConfigurationError(f"{store} is no file; name one for the receipt store, such as chio.sqlite3") from None


def load_or_create_key(path: Path) -> SigningKey:
    """Return the key in `path`; a missing file is created with a new random key and mode 0600.

    Raises:
        ConfigurationError: the file cannot be read or created, is open to other users, or holds no key. The message
            never repeats its content.
    """
    if (key := existing_key(path)) is not None:
        return key
    try:
        create_private(path, (SigningKey.generate().seed_hex() + "\n").encode("ascii"))
    except OSError as exc:
        raise _unusable(path, exc) from None
    try:
        return load_key(path)
    except FileNotFoundError:
        raise ConfigurationError(f"key file {path} vanished while it was created; start again") from None


def existing_key(path: Path) -> SigningKey | None:
    """Return the key in `path`, or None if there is no such file.

    Raises:
        ConfigurationError: as `load_or_create_key`.
    """
    try:
        return load_key(path)
    except FileNotFoundError:
        return None


def load_key(path: Path) -> SigningKey:
    """Return the key in an existing file.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigurationError: as `load_or_create_key`.
    """
    try:
        check_private(path, "key file")
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as exc:
        raise _unusable(path, exc) from None
    try:
        # Check the open file too: its name may point to another one by now.
        found = os.fstat(descriptor)
        check_status(found, path, "key file")
        if (mode := found.st_mode) & 0o077:
            raise ConfigurationError(
                f"key file {path} has mode {stat.S_IMODE(mode):04o}, so others may read the signing key;"
                f" run: chmod 600 {path}"
            )
        text = os.read(descriptor, _LENGTH + _SOME_MORE).decode("ascii", "replace")
    except OSError as exc:
        raise _unusable(path, exc) from None
    finally:
        os.close(descriptor)
    try:
        return SigningKey.from_seed_hex(text)
    except InvalidDocument:
        raise ConfigurationError(
            f"key file {path} holds no signing key: it must be 64 hex digits and a newline; restore it from a"
            " backup, or move it away to start with a new key (older receipts then name another key)"
        ) from None


def _unusable(path: Path, exc: OSError) -> ConfigurationError:
    reasons = {
        errno.ENOENT: f"its folder {path.parent} does not exist; create it",
        errno.EACCES: "permission denied; run as the owner of the file, or name another one",
        errno.EPERM: "the file system allows no hard links there; name a file on another one",
        errno.EROFS: "the file system is read-only; name a file on another one",
        errno.ENOSPC: "the disk is full; free some space",
    }
    reason = reasons.get(exc.errno or 0, f"{exc.strerror}; name another file")
    return ConfigurationError(f"cannot use key file {path}: {reason}")


_RANDOM_BITS = 80


class ReceiptIds:
    """A source of ids for any thread.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0
        self._lock = threading.Lock()

    def new(self) -> ULID:
        """Return the next id; its text form has 26 characters."""
        fresh = int(self._clock() * 1000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        with self._lock:
            # Two ids of one millisecond, or a clock that went back: take the successor of the last one.
            self._last = fresh if fresh > self._last else self._last + 1
            return ULID.from_int(self._last)


def kernel_receipt_id(receipt_id: ULID) -> str:
    """Return `rcpt-` and a UUIDv7 with the time and the random bits of a receipt id (wire protocol, section 3.2)."""
    value = int.from_bytes(receipt_id.bytes, "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    digits = f"{value:032x}"
    return f"rcpt-{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
