"""Cache: responses of upstreams in memory. Decisions are never cached: under a `GovernOutbound` each hit has its own.

The rules are those of RFC 9111 (sections in brackets), for a cache that never shares a response between callers and
never serves a stale one, so that `must-revalidate` always holds. None of them can be switched off:

* Stored [3]: a 200, 203, 204, 301 or 308 whose body was read to its end. Not stored: a response with `no-store`,
  `private`, `no-cache`, `Set-Cookie` or `Vary: *`, and one to a request with `no-store`, a range or a precondition.
* Fresh [4.2]: for `ttl` seconds, or less if `max-age`, `s-maxage` or `Expires` says less. The age that the response
  has on arrival counts, by its `Age` and `Date` headers.
* Selected [4, 4.1]: by URL, method, body, the headers in `Vary`, and the caller: a hash of every header that may
  identify a caller and, under a `GovernOutbound`, of the caller and the capability that the sidecar saw. That is why a
  response to a request with `Authorization` can be stored [3.5]. `no-cache`, `max-age` and `min-fresh` of the request
  count.
* Invalidated [4.4]: a POST, PUT, PATCH or DELETE that succeeds drops every stored response for its URL.

A response is not stored if an inner member changed a header that the key covers: the key would name another caller.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from types import ModuleType
from typing import Any

from chio_core.errors import ConfigurationError, install_extra
from chio_core.guards.chain import DECISION
from chio_core.models.request import SAFE_METHODS
from chio_core.names import HTTPX_CACHE, HTTPX_TICKET
from chio_core.outbound.extras.middleware import HookedFlow
from chio_core.outbound.extras.response import library_of
from chio_core.outbound.hop import hop_of, origin_of
from chio_core.outbound.member import FlowSteps

_STATUSES = frozenset({200, 203, 204, 301, 308})
_UNSTORABLE = frozenset({"no-store", "private", "no-cache"})
_NEUTRAL = frozenset({
    "accept-encoding", "baggage", "cache-control", "connection", "content-length", "pragma", "traceparent",
    "tracestate", "user-agent", "x-request-id", "x-trace-id",
})  # fmt: skip
"""Request headers that never identify a caller. Any other might: `X-Auth-Token`, `X-Tenant`."""

_PARTIAL = frozenset({"if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"})
"""Request headers about a copy that the caller has: only the upstream can answer these."""

_CONNECTION = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authentication-info", "proxy-authorization",
    "proxy-connection", "te", "transfer-encoding", "upgrade",
})  # fmt: skip
"""Response headers that belong to one connection (section 3.1)."""

Target = tuple[Any, bytes]
Key = tuple[Target, str, str, str]
"""Target, method, hash of the caller, hash of the body."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A stored response; times are those of the cache's timer.

    Attributes:
        varied: the request's values of the headers in `Vary`, None for an absent one.
        generated: when the upstream made the response, so that `now - generated` is its age.
        expires: when it stops being fresh.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    varied: tuple[tuple[str, str | None], ...]
    generated: float
    expires: float
    extensions: dict[str, Any]

    def suits(self, headers: Any, wanted: dict[str, float], now: float) -> bool:
        """Return True if this response may answer a request with these headers and `Cache-Control` directives."""
        if now >= self.expires or "no-cache" in wanted:
            return False
        if now - self.generated >= wanted.get("max-age", math.inf) or self.expires - now < wanted.get("min-fresh", 0):
            return False
        if "cache-control" not in headers and "no-cache" in _members(headers, "pragma"):
            return False
        return all(headers.get(name) == value for name, value in self.varied)


class Cache(HookedFlow):
    """Answers a repeated request from memory; `response.extensions["chio_cache"]` is then `hit`.

    Args:
        ttl: seconds that a response is kept at most.
        max_size: number of responses; the least recently used one is dropped first.
        cache_methods: methods whose responses are stored. A method in this list invalidates nothing.
        max_body: bytes of the largest body that is stored.
        timer: monotonic clock, in seconds.

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
        try:
            from cachetools import TTLCache
        except ImportError:
            raise ConfigurationError(f"Cache needs the extra 'outbound': {install_extra('outbound')}") from None
        self._entries: Any = TTLCache(maxsize=max_size, ttl=ttl, timer=timer)
        self._lock = threading.Lock()
        self._max_body = max_body
        self._timer = timer
        self._methods = frozenset(method.upper() for method in cache_methods)

    def clear(self) -> None:
        """Remove all responses."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def flow(self, request: Any) -> FlowSteps:
        """Answer from memory, or send and store the response.

        Raises:
            ConfigurationError: a member has changed the request after the decision.
        """
        ticket = request.extensions.get(HTTPX_TICKET)
        if ticket is not None:
            ticket.check(request)
        if request.method not in self._methods:
            response = yield request
            # What an unsafe method has changed is stale for every caller. A failure has changed nothing.
            if request.method not in SAFE_METHODS and response.status_code < 400:
                self._drop(_target(request))
            return response

        key = _key(request)
        wanted = _directives(request.headers)
        if key is None or "no-store" in wanted or not _PARTIAL.isdisjoint(request.headers.keys()):
            return (yield request)

        with self._lock:
            entry: _Entry | None = self._entries.get(key)
        now = self._timer()
        if entry is not None and entry.suits(request.headers, wanted, now):
            headers = [*entry.headers, (b"Age", str(int(now - entry.generated)).encode())]
            extensions = {**entry.extensions, HTTPX_CACHE: "hit"}
            make = library_of(request).Response
            return make(entry.status, headers=headers, content=entry.body, extensions=extensions)

        response = yield request
        # The stored response is older than this one, even if this one cannot be stored.
        if entry is not None and response.status_code < 500:
            self._drop(key)
        # The request as the network saw it: an inner member may have added credentials, which the key does not cover.
        hop = hop_of(request)
        if hop is not None and hop.sent is not None and _key(hop.sent) == key:
            self._store(key, hop.sent, response, now)
        return response

    def _drop(self, which: Key | Target) -> None:
        with self._lock:
            for key in [key for key in self._entries if which in (key, key[0])]:
                with contextlib.suppress(KeyError):  # it has expired since the line above
                    del self._entries[key]

    def _store(self, key: Key, sent: Any, response: Any, sent_at: float) -> None:
        headers = response.headers
        vary = _members(headers, "vary")
        if response.status_code not in _STATUSES or "set-cookie" in headers or "*" in vary:
            return
        if not _UNSTORABLE.isdisjoint(_directives(headers)):
            return

        # Section 4.2.3: the age on arrival is what the response says, the time that it took included.
        now = self._timer()
        stated = headers.get("age", "").partition(",")[0].strip()
        stated_age = float(stated) if stated.isdecimal() else 0.0
        apparent_age = int(time.time()) - (_timestamp(headers, "date") or math.inf)
        generated = now - max(apparent_age, stated_age + now - sent_at)
        expires = generated + _lifetime(headers)
        if expires <= now:
            return

        # A decoded body is stored as it is, so what describes the coded one goes.
        decoded = response.is_stream_consumed
        dropped = {"age", *_CONNECTION, *_members(headers, "connection")}
        dropped |= {"content-encoding", "content-length"} if decoded else set()
        kept = tuple(pair for pair in headers.raw if pair[0].decode("latin-1").lower() not in dropped)
        varied = tuple((name, sent.headers.get(name)) for name in vary)
        version = {k: v for k, v in response.extensions.items() if k in ("http_version", "reason_phrase")}

        def store(body: bytes) -> None:
            if len(body) <= self._max_body:
                entry = _Entry(response.status_code, kept, body, varied, generated, expires, version)
                with self._lock:
                    self._entries[key] = entry

        if decoded:
            store(response.content)
        else:
            response.stream = _tee(library_of(response))(response.stream, self._max_body, store)


def _key(request: Any) -> Key | None:
    if not hasattr(request, "_content"):
        return None  # a stream that can be read only once
    ticket = request.extensions.get(HTTPX_TICKET)
    caller = sorted(f"{name}:{value}" for name, value in request.headers.multi_items() if name not in _NEUTRAL)
    if ticket is not None:
        caller.append(ticket.identity)
    return (
        _target(request),
        request.method,
        hashlib.sha256("\n".join(caller).encode()).hexdigest(),
        hashlib.sha256(request.content).hexdigest() if request.content else "",
    )


def _target(request: Any) -> Target:
    return origin_of(request.url), request.url.raw_path


def _members(headers: Any, name: str) -> list[str]:
    return [part.strip().lower() for part in headers.get(name, "").split(",") if part.strip()]


def _directives(headers: Any) -> dict[str, float]:
    """Return the directives of `Cache-Control` with their seconds.

    `private="X-Header"` restricts one field only: taken for the whole response, it errs on the safe side. So do 0 for
    seconds that cannot be read, and the smallest of several.
    """
    found: dict[str, float] = {}
    for part in _members(headers, "cache-control"):
        name, _, argument = part.partition("=")
        text = argument.strip('"')
        found[name] = min(float(text) if text.isdecimal() else 0.0, found.get(name, math.inf))
    return found


def _lifetime(headers: Any) -> float:
    """Return the seconds that a response says it is fresh; infinity if it does not say."""
    directives = _directives(headers)
    stated = [directives[name] for name in ("max-age", "s-maxage") if name in directives]
    if stated or "expires" not in headers:
        return min(stated, default=math.inf)
    # Section 5.3: a date that cannot be read, `0` above all, is in the past.
    expires = _timestamp(headers, "expires")
    return 0.0 if expires is None else expires - (_timestamp(headers, "date") or time.time())


def _timestamp(headers: Any, name: str) -> float | None:
    try:
        date = parsedate_to_datetime(headers.get(name, ""))
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None


class _Tee:
    """A response body that goes to its reader piece by piece, and as a whole to a function.

    The function is called once the body was read to its end, unless it has more than `limit` bytes.
    """

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
    # The client accepts only a stream of the same library.
    return type("Tee", (_Tee, library.AsyncByteStream, library.SyncByteStream), {})
