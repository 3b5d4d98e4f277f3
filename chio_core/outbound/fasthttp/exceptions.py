"""The errors of a declared call: what `on_error` gets, and what `run` raises under `raise_for_status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PREVIEW = 100


class FastHTTPError(Exception):
    """A call failed.

    Args:
        message: what happened.
        url: declared URL of the call.
        method: its method.
        status_code: status of the response, if there was one.
        details: more about it.
    """

    def __init__(
        self,
        message: str,
        url: str | None = None,
        method: str | None = None,
        status_code: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.message = message
        self.url = url
        self.method = method
        self.status_code = status_code
        self.details = dict(details or {})
        super().__init__(f"{method} {url}: {message}" if url else message)


class FastHTTPBadStatusError(FastHTTPError):
    """The response has a status of 400 or above.

    Args:
        response_body: body of the response; the first 100 characters are kept in `details`.
    """

    def __init__(
        self,
        message: str | None = None,
        url: str | None = None,
        method: str | None = None,
        status_code: int | None = None,
        response_body: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        short = response_body[:_PREVIEW] if response_body else ""
        preview = {"body_preview": f"{short}..." if short != response_body else short} if short else {}
        super().__init__(message or f"HTTP {status_code}", url, method, status_code, {**preview, **(details or {})})


class FastHTTPConnectionError(FastHTTPError):
    """No connection. `on_error` gets the error of httpx itself."""


class FastHTTPTimeoutError(FastHTTPError):
    """The time was over. `on_error` gets the error of httpx itself."""


class FastHTTPRequestError(FastHTTPError):
    """Another failure of a request. `on_error` gets the error of httpx itself."""
