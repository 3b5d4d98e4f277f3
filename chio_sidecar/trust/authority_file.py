"""An authority whose signing key is a seed file: 64 hex digits and a newline, mode 0600.

The public keys that it signed with before are kept beside it in `FILE.former`, one `KEY SECONDS` a line: the
key and the time at which it was replaced.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.signing import SigningKey, normalize_public_key
from chio_sidecar.keys import load_or_create_key, sync_folder
from chio_sidecar.trust.authorities import AuthorityStatus


class SeedFileAuthority:
    """An authority in a seed file. One process at a time may rotate it.

    Args:
        path: the seed file; it is created with a new key when it is missing.

    Raises:
        ConfigurationError: the seed file or the list of former keys cannot be used.
    """

    backend = "seed_file"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._former_path = path.with_name(path.name + ".former")
        self._lock = threading.Lock()
        self._key = load_or_create_key(path)
        self._former = self._read_former()

    def status(self) -> AuthorityStatus:
        """Return the current public key and its history."""
        with self._lock:
            current, former = self._key.public_hex, dict(self._former)
        # A crash between the two writes of a rotation leaves the current key in the list of former ones.
        former.pop(current, None)
        rotated_at = max(former.values(), default=None)
        return AuthorityStatus(current, len(former) + 1, rotated_at, (*former, current))

    def signing_key(self) -> SigningKey:
        """Return the current signing key."""
        return self._key

    def rotate(self) -> AuthorityStatus:
        """Make a new signing key and keep trusting the older ones."""
        with self._lock:
            former = self._former | {self._key.public_hex: int(time.time())}
            text = "".join(f"{key} {seconds}\n" for key, seconds in former.items())
            replacement = SigningKey.generate()
            _replace(self._former_path, text)
            _replace(self._path, replacement.seed_hex() + "\n")
            self._former, self._key = former, replacement
        return self.status()

    def close(self) -> None:
        """Nothing stays open."""

    def _read_former(self) -> dict[str, int]:
        try:
            lines = self._former_path.read_text("ascii").splitlines()
            pairs = [line.split() for line in lines]
            return {normalize_public_key(key): int(seconds) for key, seconds in pairs}
        except FileNotFoundError:
            return {}
        except (InvalidDocument, OSError, ValueError):
            raise ConfigurationError(
                f"cannot read {self._former_path}, the former keys of --authority-seed-file; each line must be"
                " a public key of 64 hex digits and a time in seconds"
            ) from None


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
        sync_folder(path.parent)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {path}: {exc.strerror}; its folder must be writable") from None
