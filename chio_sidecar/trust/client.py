"""Asking a trust service from the command line."""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.settings import is_this_machine

T = TypeVar("T")


class TrustClient:
    """A trust service at a URL.

    Args:
        url: its base URL.
        token: the service token.
        timeout: seconds that each step of a call may take.
        transport: stands in for the network.
    """

    def __init__(
        self,
        url: str,
        token: SecretStr,
        *,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token.get_secret_value()}"},
            timeout=timeout,
            # A proxy of the environment is for the outside world; a service on this machine is asked directly.
            trust_env=not is_loopback_url(self._url),
            transport=transport,
        )

    def authority(self) -> dict[str, Any]:
        """Return the authority's public keys."""
        return self._ask("GET", "/v1/authority")

    def issue(self, subject: str, scope: dict[str, Any], ttl_seconds: int) -> dict[str, Any]:
        """Return a new capability token."""
        body = {"subjectPublicKey": subject, "scope": scope, "ttlSeconds": ttl_seconds}
        answer = self._ask("POST", "/v1/capabilities/issue", json=body)
        return self._member(answer, "capability", dict)

    def revoke(self, capability_id: str) -> bool:
        """Revoke a capability and tell whether it was still valid before."""
        answer = self._ask("POST", "/v1/revocations", json={"capabilityId": capability_id})
        return self._member(answer, "newlyRevoked", bool)

    def is_revoked(self, capability_id: str) -> bool:
        """Tell whether a capability was revoked."""
        answer = self._ask("GET", "/v1/revocations", params={"capabilityId": capability_id, "limit": "1"})
        return self._member(answer, "revoked", bool)

    def receipts(self, query: dict[str, str]) -> dict[str, Any]:
        """Return one page of receipts."""
        return self._ask("GET", "/v1/receipts/query", params=query)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> TrustClient:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer = self._client.request(method, self._url + path, **arguments)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            reason = str(exc) or type(exc).__name__
            raise ConfigurationError(
                f"cannot reach the trust service at {self._url}: {reason}; is it running, and is --control-url right?"
            ) from None
        try:
            document = parse_json(answer.content)
        except InvalidDocument:
            document = None
        if answer.status_code != 200 or not isinstance(document, dict):
            raise self._unexpected(answer, document)
        return document

    def _member(self, answer: dict[str, Any], name: str, kind: type[T]) -> T:
        value = answer.get(name)
        if not isinstance(value, kind):
            raise ConfigurationError(f"the trust service at {self._url} gave an answer without {name}")
        return value

    def _unexpected(self, answer: httpx.Response, document: Any) -> ConfigurationError:
        said = document.get("error") if isinstance(document, dict) else answer.text
        remedy = "; check --control-token" if answer.status_code in (401, 403) else ""
        return ConfigurationError(
            f"the trust service at {self._url} answered {answer.status_code}: {str(said)[:300]}{remedy}"
        )


def is_loopback_url(url: str) -> bool:
    """Tell whether the URL's host is this machine by its name or number."""
    return is_this_machine(urlsplit(url).hostname or "")
