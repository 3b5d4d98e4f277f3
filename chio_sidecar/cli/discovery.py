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
_NOTHING = (
    "no OpenAPI document was found at the upstream, so routes are judged by their method only;"
    " use --spec to provide one, or name the application as MODULE:APP"
)


def discover_spec(upstream: str, *, transport: httpx.BaseTransport | None = None) -> str | None:
    """Return the first non-empty document that the application offers, or None after one warning line.

    Args:
        upstream: base URL of the application.
        transport: stands in for the network.
    """
    deadline = time.monotonic() + _SECONDS
    failure, answered = "", False
    with httpx.Client(timeout=_SECONDS, trust_env=not is_loopback_url(upstream), transport=transport) as client:
        for place in PLACES:
            text = None
            try:
                text = _fetch(client, upstream.rstrip("/") + place, deadline)
                answered = True
            except httpx.TransportError as exc:
                failure = type(exc).__name__
            except (httpx.HTTPError, httpx.InvalidURL, UnicodeDecodeError):
                answered = True
            if text:
                say(f"chio api protect: using the OpenAPI document at {place} of the upstream")
                return text
            if time.monotonic() > deadline:
                break
    say(f"warning: {_NOTHING if answered else _no_answer(upstream, failure)}")
    return None


def _no_answer(upstream: str, failure: str) -> str:
    return (
        f"the upstream {upstream} does not answer ({failure}), so routes are judged by their method only; start it"
        " before this sidecar, use --spec to provide its OpenAPI document, or name the application as MODULE:APP"
    )


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
