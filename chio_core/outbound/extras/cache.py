"""Cache: answers of upstreams, for a while. Never decisions: under a `GovernOutbound` each hit is decided anew.

An answer is kept only if all of this holds; none of it can be switched off:

* its status is 200, 203, 204, 301 or 308, and the request asked for no range;
* neither request nor response says `no-store`, the response says neither `private` nor `no-cache`, and the
  request does not ask for a fresh answer;
* it sets no cookie, and `Vary` is not `*`;
* the request went to the network exactly as the cache saw it: same URL, same headers.

Whoever asks is part of the key: a hash of every header that may tell callers apart and, where the sidecar was
asked, of the caller and the capability. An answer that states a `max-age` is kept no longer than that.
"""

from __future__ import annotations

import hashlib
import math
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import DECISION
from chio_core.names import HTTPX_CACHE, HTTPX_TICKET
from chio_core.outbound.govern import Ticket
from chio_core.outbound.hop import hop_of
from chio_core.outbound.member import Flow, FlowSteps

_STATUSES = frozenset({200, 203, 204, 301, 308})
_NEUTRAL = frozenset({
    "accept-encoding", "baggage", "cache-control", "connection", "content-length", "host", "pragma", "traceparent",
    "tracestate", "user-agent", "x-request-id", "x-trace-id",
})  # fmt: skip
"""Request headers that tell nothing about who asks. Any other might: `X-Auth-Token`, `X-Tenant`."""

_FRAMING = frozenset({"transfer-encoding", "connection", "keep-alive"})

Key = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class _Entry:
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    varied: tuple[tuple[str, str], ...]
    expires: float
    extensions: dict[str, Any]

    def suits(self, request: Any, now: float) -> bool:
        return now < self.expires and all(request.headers.get(name, "") == value for name, value in self.varied)


class Cache(Flow):
    """Answers a repeated request from memory.

    Args:
        ttl: seconds that an answer is kept.
        max_size: answers that are kept; the one that was not used for longest goes first.
        cache_methods: methods whose answers are kept.
        max_body: bytes of the largest answer that is kept.
        timer: the clock, in seconds.

    Raises:
        ConfigurationError: the library `cachetools` is not installed, or a size or time is not above zero.
    """

    __priority__ = 10
    uses = frozenset({DECISION})

    def __init__(
        self,
        ttl: float = 300.0,
        max_size: int = 100,
        cache_methods: Collection[str] = ("GET",),
        *,
        max_body: int = 1024 * 1024,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        if ttl <= 0 or max_size < 1 or max_body < 0:
            raise ConfigurationError("Cache(ttl=…, max_size=…) takes numbers above zero")
        if isinstance(cache_methods, str):
            raise ConfigurationError("Cache(cache_methods=…) takes a list of methods")
        self._entries = _store(ttl, max_size, timer)
        self._lock = threading.Lock()
        self._max_body = max_body
        self._timer = timer
        self._methods = frozenset(method.upper() for method in cache_methods)

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def flow(self, request: Any) -> FlowSteps:
        """Answer from memory, or send and remember."""
        if request.method not in self._methods or "range" in request.headers:
            return (yield request)
        key = _key(request)
        wishes = _directives(request.headers)
        if key is None or "no-store" in wishes:
            return (yield request)
        entry = None if wishes & {"no-cache", "max-age=0"} else self._found(key, request)
        if entry is not None:
            return _replayed(entry, request)
        response = yield request
        if _may_keep(response) and _sent_as_seen(request, key):
            self._remember(key, request, response)
        return response

    def _found(self, key: Key, request: Any) -> _Entry | None:
        with self._lock:
            entry: _Entry | None = self._entries.get(key)
        return entry if entry is not None and entry.suits(request, self._timer()) else None

    def _remember(self, key: Key, request: Any, response: Any) -> None:
        decoded = response.is_stream_consumed
        varied = tuple((name, request.headers.get(name, "")) for name in _listed(response.headers.get("vary", "")))
        dropped = _FRAMING | {"content-encoding", "content-length"} if decoded else _FRAMING
        headers = tuple(pair for pair in response.headers.raw if pair[0].decode("latin-1").lower() not in dropped)
        expires = self._timer() + _max_age(response.headers)
        version = {k: v for k, v in response.extensions.items() if k in ("http_version", "reason_phrase")}

        def keep(body: bytes) -> None:
            if len(body) <= self._max_body:
                with self._lock:
                    self._entries[key] = _Entry(response.status_code, headers, body, varied, expires, version)

        if decoded:
            keep(response.content)
        else:
            collect(response, self._max_body, keep)


def _store(ttl: float, max_size: int, timer: Callable[[], float]) -> Any:
    try:
        from cachetools import TTLCache
    except ImportError:
        raise ConfigurationError("Cache needs cachetools: pip install chio-frameworks[outbound]") from None
    return TTLCache(maxsize=max_size, ttl=ttl, timer=timer)


def _key(request: Any) -> Key | None:
    if not hasattr(request, "_content"):
        return None  # a body that is read once only
    body = hashlib.sha256(request.content).hexdigest() if request.content else ""
    return request.method, str(request.url), _identity(request), body


def _identity(request: Any) -> str:
    ticket = request.extensions.get(HTTPX_TICKET)
    parts = sorted(f"{name}:{value}" for name, value in request.headers.multi_items() if name not in _NEUTRAL)
    if isinstance(ticket, Ticket):
        parts.append(ticket.identity)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _sent_as_seen(request: Any, key: Key) -> bool:
    # A member further in may have added credentials, which the key knows nothing of.
    hop = hop_of(request)
    return hop is not None and hop.sent is not None and _key(hop.sent) == key


def _may_keep(response: Any) -> bool:
    if response.status_code not in _STATUSES or "set-cookie" in response.headers:
        return False
    if _directives(response.headers) & {"no-store", "private", "no-cache", "max-age=0"}:
        return False
    return "*" not in _listed(response.headers.get("vary", ""))


def _directives(headers: Any) -> set[str]:
    # `private="X-Header"` restricts one field only; taken for the whole, it errs on the safe side.
    listed = _listed(headers.get("cache-control", ""))
    return {part if part.startswith("max-age") else part.partition("=")[0].strip() for part in listed}


def _max_age(headers: Any) -> float:
    for part in _directives(headers):
        name, _, seconds = part.partition("=")
        if name == "max-age":
            return float(seconds) if seconds.isdecimal() else 0.0
    return math.inf


def _listed(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def _replayed(entry: _Entry, request: Any) -> Any:
    extensions = {**entry.extensions, HTTPX_CACHE: "hit"}
    return library_of(request).Response(
        entry.status, headers=list(entry.headers), content=entry.body, extensions=extensions
    )


def library_of(thing: Any) -> ModuleType:
    """Return the package (`httpx`, `httpx2`) that a request or response comes from.

    Raises:
        ConfigurationError: it is neither.
    """
    for base in type(thing).__mro__:
        module = sys.modules.get(base.__module__.partition(".")[0])
        if module is not None and hasattr(module, "AsyncByteStream"):
            return module
    raise ConfigurationError(f"{type(thing).__name__} is no request or response of httpx or httpx2")


def collect(response: Any, limit: int, finished: Callable[[bytes], None]) -> None:
    """Have a function called with the raw body once it has been read to its end.

    The body goes to its reader as before, piece by piece. Nobody is called when it has more than `limit` bytes,
    breaks off, or is not read to its end.
    """
    response.stream = _tee(library_of(response))(response.stream, limit, finished)


class _Collecting:
    def __init__(self, stream: Any, limit: int, finished: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._left = limit
        self._finished = finished

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield self._keep(part)
        self._end()

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield self._keep(part)
        self._end()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        self._stream.close()

    def _keep(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left >= 0:
            self._parts.append(part)
        else:
            self._parts.clear()
        return part

    def _end(self) -> None:
        if self._left >= 0:
            self._finished(b"".join(self._parts))


@lru_cache(maxsize=8)
def _tee(library: ModuleType) -> Any:
    # The client checks that a stream is one of its library's.
    return type("Tee", (_Collecting, library.AsyncByteStream, library.SyncByteStream), {})
