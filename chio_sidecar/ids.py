"""Receipt ids: ULIDs that only ever grow within a process, also when the clock steps back."""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Callable

from ulid import ULID

_RANDOM_BITS = 80


class ReceiptIds:
    """A source of ids; any thread may ask.

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
            # Two ids of one millisecond, or a clock that went back: the successor of the last one.
            self._last = fresh if fresh > self._last else self._last + 1
            return ULID.from_int(self._last)


def kernel_receipt_id(receipt_id: ULID) -> str:
    """Return `rcpt-` and a UUIDv7 with the time and the random bits of a receipt id (wire protocol, section 3.2)."""
    value = int.from_bytes(receipt_id.bytes, "big")
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return f"rcpt-{uuid.UUID(int=value)}"
