"""BodyLimits: what the settings allow for request bodies, of one request and of all together.

In observe mode they are lifted: a body that exceeds them is read to its end, and the refusal is noted with it.
"""

from __future__ import annotations

import threading

from chio_core.refusals.response import Denial, RequestRefused, no_room_for_body
from chio_core.settings import ChioSettings

UNLIMITED = 2**63


class BodyLimits:
    """The limits, and a count of the bytes that requests keep in temporary files; any thread may use it.

    Args:
        max_bytes: most bytes of one body.
        spool_bytes: a body of more bytes is kept in a temporary file.
        timeout: seconds for a body to arrive, in an event loop; None for no limit.
        max_spooled: most bytes in temporary files, all requests together.
        lifted: what exceeds a limit is not refused.
    """

    __slots__ = ("_lock", "_max_spooled", "lifted", "max_bytes", "spool_bytes", "spooled", "timeout")

    def __init__(
        self,
        max_bytes: int = UNLIMITED,
        spool_bytes: int = UNLIMITED,
        timeout: float | None = None,
        max_spooled: int = UNLIMITED,
        *,
        lifted: bool = False,
    ) -> None:
        self.max_bytes = max_bytes
        self.spool_bytes = spool_bytes
        self.timeout = timeout
        self.spooled = 0
        self.lifted = lifted
        self._max_spooled = max_spooled
        self._lock = threading.Lock()

    @classmethod
    def of(cls, settings: ChioSettings) -> BodyLimits:
        """Return the limits of some settings."""
        return cls(
            settings.max_body_bytes,
            settings.spool_bytes,
            settings.body_timeout,
            settings.max_spooled_bytes,
            lifted=settings.observe,
        )

    def lift(self) -> BodyLimits:
        """Return the same limits, lifted; what one request keeps in temporary files is counted by itself."""
        if self.lifted:
            return self
        return BodyLimits(self.max_bytes, self.spool_bytes, self.timeout, self._max_spooled, lifted=True)

    def refuse(self, denial: Denial) -> Denial:
        """Return the refusal of what exceeds a lifted limit.

        Raises:
            RequestRefused: the limit is not lifted.
        """
        if self.lifted:
            return denial
        raise RequestRefused(denial)

    def take(self, count: int) -> Denial | None:
        """Reserve bytes in temporary files; return the refusal if they exceed a lifted limit.

        Raises:
            RequestRefused: 503, they do not fit.
        """
        with self._lock:
            refusal = self.refuse(no_room_for_body()) if self.spooled + count > self._max_spooled else None
            self.spooled += count
        return refusal

    def give_back(self, count: int) -> None:
        """Release reserved bytes."""
        with self._lock:
            self.spooled -= count


NO_LIMITS = BodyLimits()
