"""Asking the application for its OpenAPI document (wire protocol, section 6.1)."""

from __future__ import annotations

import time

import httpx

from chio_sidecar.cli.output import say
from chio_sidecar.trust.client import is_loopback_url

PLACES = ("/openapi.json", "/openapi.yaml", "/swagger.json", "/api-docs")
"""Paths that are asked, in this order."""

_SECONDS = 3.0
_LARGEST = 10 * 1024 * 1024


def discover_spec(upstream: str, *, transport: httpx.BaseTransport | None = None) -> str | None:
    """Return the first non-empty document that the application offers, or None after one warning line.

    Args:
        upstream: base URL of the application.
        transport: stands in for the network.
    """
    deadline = time.monotonic() + _SECONDS
    with httpx.Client(timeout=_SECONDS, trust_env=not is_loopback_url(upstream), transport=transport) as client:
        for place in PLACES:
            try:
                text = _fetch(client, upstream.rstrip("/") + place, deadline)
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeDecodeError):
                text = None
            if text:
                say(f"chio api protect: using the OpenAPI document at {place} of the upstream")
                return text
            if time.monotonic() > deadline:
                break
    say(
        "warning: no OpenAPI document was found at the upstream, so routes are judged by their method only;"
        " use --spec to provide one, or name the application as MODULE:APP"
    )
    return None


def _fetch(client: httpx.Client, url: str, deadline: float) -> str | None:
    with client.stream("GET", url) as answer:
        if not answer.is_success:
            return None
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > _LARGEST or time.monotonic() > deadline:
                return None
    return body.decode("utf-8") if body.strip() else None
