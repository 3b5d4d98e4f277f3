"""What a sidecar's store knows about a capability: read-only, without opening the store for writing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from chio_core.errors import ConfigurationError
from chio_sidecar.store.schema import UNUSABLE, trouble


class Ledger:
    """Revocations and spent uses in the file of a sidecar.

    Args:
        path: the SQLite file.

    Raises:
        ConfigurationError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_file():
            raise ConfigurationError(f"there is no receipt store at {path}; name the sidecar's file")
        try:
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None

    def is_revoked(self, capability_id: str) -> bool:
        """Tell whether a capability was revoked in this store.

        Raises:
            ConfigurationError: the store cannot be read.
        """
        return bool(self._ask("SELECT count(*) FROM revoked_capabilities WHERE capability_id = ?", capability_id))

    def invocations(self, capability_id: str, grant_index: int) -> int:
        """Return how many uses of a limited grant are spent.

        Raises:
            ConfigurationError: the store cannot be read.
        """
        return self._ask(
            "SELECT count(*) FROM capability_invocations WHERE capability_id = ? AND grant_index = ?",
            capability_id,
            grant_index,
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, sql: str, *parameters: Any) -> int:
        try:
            return int(self._connection.execute(sql, parameters).fetchone()[0])
        except UNUSABLE as exc:
            raise self._unreadable(exc) from None

    def _unreadable(self, exc: Exception) -> ConfigurationError:
        text = trouble(exc)
        return ConfigurationError(f"cannot read {self._path} as a receipt store: {text}; name the sidecar's file")
