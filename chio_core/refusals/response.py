"""Response, Downstream and Denial: the results that a guard may return. Immutable; each change gives a new object."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any, Self
from urllib.parse import quote

from chio_core.errors import ConfigurationError
from chio_core.refusals.streams import Body, Event, FileStream, Stream, event_stream

HeaderPairs = tuple[tuple[str, str], ...]
_REPEATABLE = frozenset(
    {
        "accept-ranges",
        "allow",
        "cache-control",
        "clear-site-data",
        "content-language",
        "content-security-policy",
        "content-security-policy-report-only",
        "link",
        "proxy-authenticate",
        "server-timing",
        "set-cookie",
        "vary",
        "via",
        "warning",
        "www-authenticate",
    }
)
"""Headers whose lines add to each other: list-based fields (RFC 9110, section 5.3), cookies, and policies."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status and header lines of a response. Headers are a list of pairs; two `Set-Cookie` stay two."""

    status: int = 200
    headers: HeaderPairs = ()

    def with_status(self, status: int) -> Self:
        """Return the same response with another status.

        Raises:
            ConfigurationError: no HTTP status (100 to 599).
        """
        if not 100 <= status <= 599:
            raise ConfigurationError(f"{status} is no HTTP status")
        return replace(self, status=status)

    def with_header(self, name: str, value: str) -> Self:
        """Return the same response with this header; a header that may occur only once is replaced.

        Raises:
            ConfigurationError: a line break in name or value.
        """
        if any(c in name + value for c in "\r\n\0"):
            raise ConfigurationError(f"header {name!r} contains a line break")
        kept: Iterable[tuple[str, str]] = self.headers
        if name.lower() not in _REPEATABLE:
            kept = (pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=(*kept, (name, value)))

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


@dataclass(frozen=True, slots=True)
class Response(Head):
    """A response with a body.

    Args:
        body: bytes; text, which is sent as UTF-8; or an iterable or asynchronous iterable of both, which is sent while
            it is read, without a Content-Length if `headers` have none. It is closed at its end, when the client goes
            away, and if it is not sent.
        status: HTTP status.
        headers: names and values; a body of text is `text/plain` if they name no other type.

    Raises:
        ConfigurationError: another kind of body.
    """

    body: Body = b""

    def __init__(
        self,
        body: Body | str | bytearray | memoryview = b"",
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        pairs = tuple(headers)
        if isinstance(body, str):
            body = body.encode()
            if not any(name.lower() == "content-type" for name, _ in pairs):
                pairs = (*pairs, ("content-type", "text/plain; charset=utf-8"))
        elif isinstance(body, bytearray | memoryview):
            body = bytes(body)
        elif isinstance(body, Mapping) or not isinstance(body, bytes | Iterable | AsyncIterable):
            raise ConfigurationError(
                f"a Response takes bytes, text or an iterable of them, not {type(body).__name__};"
                " json.dumps makes text of JSON"
            )
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "status", status)
        object.__setattr__(self, "headers", pairs)

    @classmethod
    def file(
        cls,
        path: str | os.PathLike[str],
        *,
        filename: str | None = None,
        content_type: str | None = None,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Response:
        """Return a response with the content of a file, its length, type and time.

        Args:
            path: a regular file.
            filename: name under which browsers save it; None: browsers show it.
            content_type: media type; by the name of the file if left out.

        Raises:
            OSError: it does not exist, or is no regular file.
        """
        stream = FileStream(path)
        kind = content_type or mimetypes.guess_type(path)[0] or "application/octet-stream"
        pairs = [
            ("content-type", f"{kind}; charset=utf-8" if kind.startswith("text/") and ";" not in kind else kind),
            ("content-length", str(stream.size)),
            ("last-modified", formatdate(stream.modified, usegmt=True)),
        ]
        if filename is not None:
            pairs.append(("content-disposition", f"attachment; filename*=UTF-8''{quote(filename, safe='')}"))
        return cls(stream, status, (*pairs, *headers))

    @classmethod
    def events(
        cls,
        events: Iterable[Event] | AsyncIterable[Event],
        *,
        status: int = 200,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Response:
        """Return a response with server-sent events, each sent as soon as it is there.

        Args:
            events: the data of each, as text; or its fields `data` (JSON if it is no text), `event`, `id` and `retry`.
        """
        pairs = (("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no"))
        return cls(event_stream(events), status, (*pairs, *headers))

    @property
    def stream(self) -> Stream | None:
        """The body if it is sent in pieces; None if it is bytes."""
        return None if isinstance(self.body, bytes) else self.body

    def head(self) -> HeaderPairs:
        """Return the header lines to send: those of the response, with the length of a body of bytes."""
        if not isinstance(self.body, bytes):
            return self.headers
        kept = (pair for pair in self.headers if pair[0].lower() != "content-length")
        return (*kept, ("content-length", str(len(self.body))))


@dataclass(frozen=True, slots=True)
class Downstream(Head):
    """The head of the application's response (JSON, stream, SSE and file alike).

    Its body is sent lazily and cannot be read here.

    Attributes:
        finished: functions to call after the last byte, or when the application ended without it.
    """

    finished: list[Callable[[], None]] = field(default_factory=list, compare=False, repr=False)

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call a function after the body; copies made by `with_…` share these functions."""
        self.finished.append(callback)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial(Head):
    """A refusal. It has no body: `chio_core.refusals.problems` writes the document of each framework.

    Attributes:
        code: wire code, for example `chio_access_denied`.
        message: one sentence for the caller; never a secret.
        guard: name of the guard that refused; None if no guard did.
        receipt_id: id of the verified receipt of this refusal; None without one.
        suggestion: what the caller can do.
        details: further members from the sidecar's deny, for example `required_scope`.
        request_id: id that was sent to the sidecar; None if it was not called.
        explain_url: page that explains the refusal (setting `explain_url`); None without a receipt.
    """

    status: int = 403
    code: str = "chio_access_denied"
    message: str
    guard: str | None = None
    receipt_id: str | None = None
    suggestion: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    explain_url: str | None = None

    def with_status(self, status: int) -> Denial:
        """Return the refusal with another status of 400 or above.

        Raises:
            ConfigurationError: a status that would turn the refusal into a success.
        """
        if not 400 <= status <= 599:
            raise ConfigurationError(f"a refusal cannot be answered with status {status}; use 400 to 599")
        return replace(self, status=status)


AnyResponse = Response | Downstream | Denial


def bad_request(message: str, status: int = 400, headers: tuple[tuple[str, str], ...] = ()) -> Denial:
    """Return the refusal of a request that is not sent to the sidecar."""
    return Denial(status=status, code="chio_bad_request", message=message, headers=headers)


def misconfigured() -> Denial:
    """Return the 500 for every request of an application that cannot be governed as it is configured."""
    text = "requests to this application cannot be evaluated; its log states the reason"
    return Denial(status=500, code=ConfigurationError.code, message=text)


def body_too_large(limit: int) -> Denial:
    """Return the 413 for a body of more than `limit` bytes."""
    return Denial(status=413, code="chio_body_too_large", message=f"request body is larger than {limit} bytes")


def body_too_slow(seconds: float) -> Denial:
    """Return the 408 for a body that did not arrive within `seconds`."""
    return bad_request(f"request body did not arrive within {seconds:g} seconds", 408)


def no_room_for_body() -> Denial:
    """Return the 503 for a body that does not fit beside those that wait in temporary files (`max_spooled_bytes`)."""
    text = "too many request bodies wait at the same time"
    return Denial(status=503, code="chio_overloaded", message=text, headers=(("retry-after", "1"),))


def body_incomplete() -> Denial:
    """Return the 400 for a body whose end never came. No client reads it; it ends the request in the log."""
    return bad_request("the client went away before its body was complete")


class RequestRefused(Exception):
    """The request is refused without an evaluation: it is malformed, too large, or says too little.

    Attributes:
        denial: the refusal to send; its message names the place and repeats nothing of the request.
    """

    def __init__(self, denial: Denial) -> None:
        super().__init__(denial.message)
        self.denial = denial
