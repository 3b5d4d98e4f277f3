"""The sidecar in this process, for `CHIO_SIDECAR_URL=embedded:FILE`.

Not a second code path: the same client asks the same application and verifies its receipts in the same way;
only the sockets are missing. This is the one place that looks at `chio_sidecar`, and only when it is asked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from chio_core.carrier.base import Pairs
from chio_core.carrier.via_httpx import HttpxCarrier
from chio_core.decide import Answer
from chio_core.errors import ConfigurationError

if TYPE_CHECKING:
    from chio_sidecar.embedded import EmbeddedSidecar


class EmbeddedCarrier:
    """An `AsyncCarrier` to a sidecar that lives in this process.

    Args:
        url: `embedded:FILE`; FILE is the receipt store, its signing key stands beside it in `FILE.key`.

    Raises:
        ConfigurationError: the extra `sidecar` is not installed, or the store or the key cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._sidecar = open_sidecar(url)
        self.public_key: str = self._sidecar.public_key
        transport = httpx.ASGITransport(app=self._sidecar.app)
        self._carrier = HttpxCarrier("http://embedded", transport)

    async def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> Answer:
        """See `AsyncCarrier.post`."""
        return await self._carrier.post(path, body, headers, timeout)

    async def aclose(self) -> None:
        """Finish what is under way and close the store."""
        await self._carrier.aclose()
        await self._sidecar.close()


def open_sidecar(url: str) -> EmbeddedSidecar:
    """Open the sidecar that an `embedded:` URL names."""
    try:
        from chio_sidecar.embedded import open_embedded
    except ImportError:
        raise ConfigurationError(
            "an embedded sidecar needs the extra 'sidecar': pip install 'chio-frameworks[sidecar]'"
        ) from None
    return open_embedded(url.partition(":")[2])
