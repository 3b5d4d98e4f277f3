"""Clients of a trust service, for the command line and for a sidecar (wire protocol, section 9)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from chio_core.canonical import parse_json
from chio_core.client.carrier import Getter
from chio_core.client.pool import ConnectionPool
from chio_core.endpoint import Endpoint, is_this_machine
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_sidecar.store.issuers import is_issuer_name, issuer_name

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr


T = TypeVar("T")


class TrustClient:
    """A trust service at a URL; every call raises ConfigurationError if the service gives no usable response.

    Args:
        url: its base URL.
        token: the service token.
        timeout: seconds that each step of a call may take.
        transport: replaces the network.
    """

    backend = "remote"
    """Name of this kind of store in the output of commands."""

    def __init__(
        self, url: str, token: SecretStr, *, timeout: float = 10.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        import httpx

        self._url = url.rstrip("/")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token.get_secret_value()}"},
            timeout=timeout,
            # The environment's proxy is for the outside world, not for a service on this machine.
            trust_env=not is_loopback_url(self._url),
            transport=transport,
        )

    def authority(self) -> dict[str, Any]:
        """Return the authority's public keys."""
        return self._call("GET", "/v1/authority")

    def rotate(self) -> dict[str, Any]:
        """Let the authority make a new signing key, and return its public keys."""
        return self._call("POST", "/v1/authority")

    def issue(self, subject: str, scope: dict[str, Any], ttl_seconds: int) -> dict[str, Any]:
        """Return a new capability token."""
        body = {"subjectPublicKey": subject, "scope": scope, "ttlSeconds": ttl_seconds}
        return self._member(self._call("POST", "/v1/capabilities/issue", json=body), "capability", dict)

    def revoke(self, capability_id: str) -> bool:
        """Revoke a capability; return False if it was revoked before."""
        body = {"capabilityId": capability_id}
        if is_issuer_name(capability_id):
            body["issuerPublicKey"] = capability_id.removeprefix(issuer_name(""))
        response = self._call("POST", "/v1/revocations", json=body)
        return self._member(response, "newlyRevoked", bool)

    def is_revoked(self, capability_id: str) -> bool:
        """Return True if a capability was revoked."""
        response = self._call("GET", "/v1/revocations", params={"capabilityId": capability_id, "limit": "1"})
        return self._member(response, "revoked", bool)

    def newest(self, limit: int) -> list[tuple[str, int]]:
        """Return id and time (seconds since 1970) of the newest revocations: at most `limit`, which is at most 200."""
        response = self._call("GET", "/v1/revocations", params={"limit": str(limit)})
        rows = self._member(response, "revocations", list)
        return [(self._member(row, "capabilityId", str), self._member(row, "revokedAt", int)) for row in rows]

    def receipts(self, query: dict[str, str]) -> dict[str, Any]:
        """Return one page of receipts."""
        return self._call("GET", "/v1/receipts/query", params=query)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> TrustClient:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        import httpx

        try:
            response = self._client.request(method, self._url + path, **arguments)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            reason = str(exc) or type(exc).__name__
            raise ConfigurationError(
                f"cannot reach the trust service at {self._url}: {reason}; is it running, and is --control-url right?"
            ) from None
        try:
            document = parse_json(response.content)
        except InvalidDocument:
            document = None
        if response.status_code == 200 and isinstance(document, dict):
            return document
        error = document.get("error") if isinstance(document, dict) else response.text
        remedies = {
            401: "; check --control-token",
            403: "; check --control-token",
            404: "; is --control-url the address of a trust service?",
        }
        remedy = remedies.get(response.status_code, "")
        raise ConfigurationError(
            f"the trust service at {self._url} answered {response.status_code}: {str(error)[:300]}{remedy}"
        )

    def _member(self, response: dict[str, Any], name: str, kind: type[T]) -> T:
        value = response.get(name) if isinstance(response, dict) else None
        if not isinstance(value, kind):
            raise ConfigurationError(f"the trust service at {self._url} sent a response without {name}")
        return value


def is_loopback_url(url: str) -> bool:
    """Return True if the URL's host is this machine, by name or by number."""
    return is_this_machine(urlsplit(url).hostname or "")


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
