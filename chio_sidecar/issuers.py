"""Following an authority: its keys are asked for again when a capability of an unknown issuer shows up.

An authority that rotates its key goes on to trust the older ones, so keys are only ever added here.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from chio_sidecar.service.revocation import AuthorityUnavailable, RevocationAuthority


EVERY: Final = 10.0
"""Seconds between two questions: whoever makes up issuers must not keep the authority busy."""


class FollowedIssuers:
    """The issuers that an authority names; may be asked from several event loops.

    Args:
        authority: the trust service.
        clock: seconds since 1970.
    """

    def __init__(self, authority: RevocationAuthority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock
        self._asked: float | None = None
        self._lock = threading.Lock()

    async def named(self) -> frozenset[str]:
        """Return the public keys (hex) that the authority names; none where it was asked just now or is silent."""
        if not self._due():
            return frozenset()
        try:
            return await self._authority.issuers()
        except AuthorityUnavailable:
            return frozenset()  # its capabilities stay untrusted, and the log has said why

    def _due(self) -> bool:
        with self._lock:
            now = self._clock()
            if self._asked is not None and 0 <= now - self._asked < EVERY:
                return False
            self._asked = now
            return True
