"""TokenBucket: how much may begin in a second."""

from __future__ import annotations

import threading
from collections.abc import Callable


class TokenBucket:
    """Lets `rate` units begin in a second, and as many at once after a pause. Any thread may use it.

    Args:
        rate: units per second, at least 1.
        clock: returns seconds; one that is set back adds nothing.
    """

    def __init__(self, rate: int, clock: Callable[[], float]) -> None:
        self.rate = rate
        self._clock = clock
        self._left = float(rate)
        self._refilled = clock()
        self._lock = threading.Lock()

    def is_empty(self) -> bool:
        """Return True if no unit is left now."""
        with self._lock:
            return self._refill() < 1

    def take(self) -> bool:
        """Take one unit; return False if none is left."""
        with self._lock:
            if self._refill() < 1:
                return False
            self._left -= 1
            return True

    def _refill(self) -> float:
        now = self._clock()
        self._left = min(self.rate, self._left + max(0.0, now - self._refilled) * self.rate)
        self._refilled = now
        return self._left
