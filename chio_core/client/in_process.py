"""The sidecar in this process, for `CHIO_SIDECAR_URL=embedded:FILE`.

Not a second code path: the same client asks the same application and verifies its receipts in the same way;
only the sockets are missing. This is the one place that looks at `chio_sidecar`, and only when it is asked to.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import httpx

from chio_core.client.carrier import Pairs
from chio_core.client.via_httpx import HttpxCarrier
from chio_core.errors import ConfigurationError
from chio_core.evaluation.exchange import RawResponse
from chio_core.settings import ChioSettings
from chio_core.threads.guards import LoopThread

if TYPE_CHECKING:
    from chio_sidecar.embedded import EmbeddedSidecar


def open_sidecar(url: str, *, busy_seconds: float | None = None, document: str | None = None) -> EmbeddedSidecar:
    """Open the sidecar that an `embedded:` URL names.

    Args:
        url: `embedded:FILE`; FILE is the receipt store, its signing key stands beside it in `FILE.key`.
        busy_seconds: how long a write waits for the store's file; None: the sidecar's own.
        document: OpenAPI document to judge by where the URL names none.

    Raises:
        ConfigurationError: the extra `sidecar` is not installed, or the store or the key cannot be used.
    """
    try:
        from chio_sidecar.embedded import open_embedded
    except ImportError as exc:
        raise ConfigurationError(
            f"an embedded sidecar needs the extra 'sidecar' ({exc.name} is missing): "
            "pip install 'chio-frameworks[sidecar]'"
        ) from None
    return open_embedded(url.partition(":")[2], busy_seconds=busy_seconds, document=document)


def busy_seconds_for(settings: ChioSettings) -> float | None:
    """Return how long the store may wait for its file, in seconds; None: as long as the sidecar thinks fit.

    With `fail_open` a request passes when its time is over. A deny that is stored after that would speak of a
    request that ran, so the store has to give up first: a decision writes twice at most, and each of the two may
    wait for a batch before its own.
    """
    return settings.timeout / 4 if settings.fail_open else None


def carrier_to(sidecar: EmbeddedSidecar) -> HttpxCarrier:
    """Return a carrier to an open sidecar for the running event loop; closing it leaves the sidecar open.

    The peer address that it shows is not a loopback one: the control plane stays closed to it.
    """
    return HttpxCarrier("http://embedded", httpx.ASGITransport(app=sidecar.app, client=("embedded", 0)))


class PortalCarrier:
    """A `BlockingCarrier` to a sidecar that lives in an event loop of its own thread.

    Args:
        url, busy_seconds: see `open_sidecar`.

    Raises:
        ConfigurationError: see `open_sidecar`.
    """

    def __init__(self, url: str, *, busy_seconds: float | None = None) -> None:
        sidecar = open_sidecar(url, busy_seconds=busy_seconds)
        self.public_key: str = sidecar.public_key
        self._carrier = carrier_to(sidecar)
        self._thread = LoopThread("chio-embedded", partial(_close, self._carrier, sidecar))
        self._thread.loop()  # from now on there is something to end

    def post(self, path: str, body: bytes, headers: Pairs, timeout: float) -> RawResponse:
        """See `AsyncCarrier.post`."""
        exchange = self._carrier.post(path, body, headers, timeout)
        return asyncio.run_coroutine_threadsafe(exchange, self._thread.loop()).result()

    def close(self) -> None:
        """Close the sidecar, then its loop and thread."""
        self._thread.close()


async def _close(carrier: HttpxCarrier, sidecar: EmbeddedSidecar) -> None:
    await carrier.aclose()
    await sidecar.close()
