"""The sidecar in this process, for threads: it lives in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import threading

from chio_core.carrier.base import Pairs
from chio_core.carrier.embedded import EmbeddedCarrier
from chio_core.decide import Answer


class PortalCarrier:
    """A `BlockingCarrier` to a sidecar that lives in this process.

    Args:
        url: `embedded:FILE`; see `EmbeddedCarrier`.
    """

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chio-embedded", daemon=True)
        self._carrier = EmbeddedCarrier(url)
        self.public_key = self._carrier.public_key
        self._thread.start()

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> Answer:
        """See `AsyncCarrier.post`."""
        exchange = self._carrier.post(path, body, headers, timeout)
        return asyncio.run_coroutine_threadsafe(exchange, self._loop).result()

    def close(self) -> None:
        """Close the sidecar, then its loop and thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._carrier.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
