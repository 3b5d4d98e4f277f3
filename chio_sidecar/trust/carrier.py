"""What carries a sidecar's queries to a trust service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from chio_core.client.carrier import Getter
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint
from chio_sidecar.trust.client import is_loopback_url

if TYPE_CHECKING:
    import httpx

_CONNECTIONS: Final = 100
_IDLE: Final = 4.0  # seconds; many servers close an unused connection after five


def open_carrier(url: str, transport: httpx.AsyncBaseTransport | None = None) -> Getter:
    """Return a carrier for one event loop.

    It is the pool of connections, which costs a tenth of httpx. httpx carries what the pool cannot: a connection
    through a proxy of the environment, which is for other machines only, and a URL that has to be encoded first.

    Args:
        url: base URL of the service.
        transport: replaces the network.
    """
    parts = urlsplit(url)
    if transport is None and not is_loopback_url(url) and not proxy_bypass(parts.hostname or ""):
        proxies = getproxies()
        if proxy := proxies.get(parts.scheme, proxies.get("all")):
            import httpx

            transport = httpx.AsyncHTTPTransport(proxy=proxy)
    if transport is None and not re.fullmatch("[!-~]+", url):
        import httpx

        transport = httpx.AsyncHTTPTransport()
    if transport is None:
        return ConnectionPool(Endpoint.parse(url), limit=_CONNECTIONS, max_idle=_IDLE)
    from chio_core.client.via_httpx import HttpxCarrier

    return HttpxCarrier(url, transport, patience=0)
