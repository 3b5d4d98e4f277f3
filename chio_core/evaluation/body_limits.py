"""BodyLimits: what the settings allow for request bodies, of one request and of all together."""

from __future__ import annotations

import threading

from chio_core.refusals.response import RequestRefused, no_room_for_body
from chio_core.settings import ChioSettings

UNLIMITED = 2**63


class BodyLimits:
    """The limits, and a count of the bytes that requests keep in temporary files; any thread may use it.

    Args:
        max_bytes: most bytes of one body.
        spool_bytes: a body of more bytes is kept in a temporary file.
        timeout: seconds for a body to arrive, in an event loop; None for no limit.
        max_spooled: most bytes in temporary files, all requests together.
    """

    __slots__ = ("_lock", "_max_spooled", "max_bytes", "spool_bytes", "spooled", "timeout")

    def __init__(
        self,
        max_bytes: int = UNLIMITED,
        spool_bytes: int = UNLIMITED,
        timeout: float | None = None,
        max_spooled: int = UNLIMITED,
    ) -> None:
        self.max_bytes = max_bytes
        self.spool_bytes = spool_bytes
        self.timeout = timeout
        self.spooled = 0
        self._max_spooled = max_spooled
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: ChioSettings) -> BodyLimits:
        """Return the limits of some settings."""
        return cls(settings.max_body_bytes, settings.spool_bytes, settings.body_timeout, settings.max_spooled_bytes)

    def take(self, count: int) -> None:
        """Reserve bytes in temporary files.

        Raises:
            RequestRefused: 503, they do not fit.
        """
        with self._lock:
            if self.spooled + count > self._max_spooled:
                raise RequestRefused(no_room_for_body())
            self.spooled += count

    def give_back(self, count: int) -> None:
        """Release reserved bytes."""
        with self._lock:
            self.spooled -= count


NO_LIMITS = BodyLimits()
