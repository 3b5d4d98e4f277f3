"""RateLimit: a number of requests per caller and time, counted by the library `limits` in memory or in Redis.

Memory counts per process: N workers allow N times the limit, and `check()` says so. Redis counts for all workers.
If Redis fails, or does not answer in time, requests are refused (503), or continue uncounted under `fail_open`.

What a limit of N per window means depends on the strategy. `exact`: at most N requests are accepted in any span of the
window's length. `fixed-window` and `sliding-window-counter` keep one or two counters per name instead of N times, and
accept up to 2 N requests in a span around the end of a window.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from ipaddress import IPv6Address
from typing import Any

from limits import parse
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.errors import StorageError
from limits.storage import storage_from_string

from chio_core.concurrency.loop_thread import at_loop_end
from chio_core.errors import ConfigurationError
from chio_core.guards.addresses import ClientAddress
from chio_core.guards.chain import DECISION, Finding
from chio_core.guards.response_hooks import header_change, response_hooks
from chio_core.names import LOGGER, STATE_CALLER, STATE_DECISION
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest


class CountingStorage(MemoryStorage):
    """Counters, and times of accepted requests, in memory; they are removed when they expire.

    Args:
        clock: seconds since 1970.
    """

    STORAGE_SCHEME = None  # type: ignore[assignment]  # keeps it out of the registry of `limits`
    _REMOVED_AT_ONCE = 3

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._expiring: deque[tuple[float, str]] = deque()
        self.accepted: dict[str, deque[float]] = {}

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Add `amount` to a key, which expires `expiry` seconds after its first hit."""
        now = self._clock()
        with self._lock:
            self._remove_expired(now)
            if self.expirations.get(key, 0) <= now:
                self.storage[key] = 0
                self.expirations[key] = now + expiry
                self._expiring.append((now + expiry, key))
            self.storage[key] += amount
            return self.storage[key]

    async def decr(self, key: str, amount: int = 1) -> int:
        """Subtract `amount` from a key."""
        with self._lock:
            self.storage[key] = max(0, self.storage.get(key, 0) - amount)
            return self.storage[key]

    async def get(self, key: str) -> int:
        """Return the count of a key, 0 after it has expired."""
        return self.storage.get(key, 0) if self.expirations.get(key, 0) > self._clock() else 0

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Accept `amount` requests if that makes no more than `limit` in the last `expiry` seconds."""
        now = self._clock()
        with self._lock:
            self._remove_expired(now)
            times = self.accepted.get(key, deque())
            while times and times[0] <= now - expiry:
                times.popleft()
            if len(times) + amount > limit:
                return False
            times.extend([now] * amount)
            self.accepted[key] = times
            self.expirations[key] = now + expiry
            self._expiring.append((now + expiry, key))
            return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Return when the oldest request in the last `expiry` seconds was accepted, and how many were."""
        now = self._clock()
        with self._lock:
            counted = [one for one in self.accepted.get(key, ()) if one > now - expiry]
            return (counted[0] if counted else now), len(counted)

    def _remove_expired(self, now: float) -> None:
        # One limiter counts for one length of time, so the oldest key expires first. A few at each hit are enough to
        # keep up, and bound the time that one hit takes.
        for _ in range(self._REMOVED_AT_ONCE):
            if not self._expiring or self._expiring[0][0] > now:
                break
            _, expired = self._expiring.popleft()
            if self.expirations.get(expired, 0) <= now:
                self.expirations.pop(expired, None)
                self.storage.pop(expired, None)
                self.accepted.pop(expired, None)


log = logging.getLogger(LOGGER)

Key = Callable[[GuardRequest], "str | None"]
"""Returns the name under which a request is counted; None counts all such requests together."""

_STRATEGIES: dict[str, type[RateLimiter]] = {
    "fixed-window": FixedWindowRateLimiter,
    "exact": MovingWindowRateLimiter,
    "moving-window": MovingWindowRateLimiter,
    "sliding-window-counter": SlidingWindowCounterRateLimiter,
}


class RateLimit:
    """Refuses requests above a limit with 429; every response states how many requests are left.

    Args:
        limit: `5/minute`, `100 per 10 seconds` and so on, in the notation of `limits`.
        storage: `memory://`, `redis://HOST:PORT/DB`, or another storage of `limits`.
        key: `ip` (an IPv6 client is counted by its /64), `caller` (verified by `JwtAuth`, else the address),
            `capability` (the one that the sidecar found valid, else the address), or a function.
        strategy: `sliding-window-counter`, `fixed-window` or `exact`, see above; `moving-window` is `exact` in Redis.
            `exact` remembers the time of each accepted request, so up to `limit` times for each name.
        namespace: limits with the same namespace and length share their counts.
        timeout: seconds that the storage may take for one request, all in all.
        fail_open: let requests continue while the storage fails.
        trusted_proxies: proxies whose `X-Forwarded-For` is used for `ip`.
        priority: place in the chain; inside of `JwtAuth` (-40) for the key `caller`, inside of the decision (5) for
            `capability`: a token in a header is only a claim before it. Otherwise -60.

    Raises:
        ConfigurationError: an unusable limit, storage, key or strategy.
    """

    name = "rate_limit"

    def __init__(
        self,
        limit: str,
        *,
        storage: str = "memory://",
        key: str | Key = "ip",
        strategy: str = "sliding-window-counter",
        namespace: str = "chio",
        timeout: float = 1.0,
        fail_open: bool = False,
        trusted_proxies: Sequence[str] = (),
        priority: int | None = None,
    ) -> None:
        try:
            self._item = parse(limit)
        except ValueError:
            raise ConfigurationError(f"{limit!r} is no rate limit; write 5/minute or 100 per 10 seconds") from None
        if strategy not in _STRATEGIES:
            raise ConfigurationError(f"strategy {strategy!r} is none of {', '.join(sorted(_STRATEGIES))}")
        keys: dict[str, Key] = {
            "ip": self._client,
            "caller": lambda request: _caller(request) or self._client(request),
            "capability": lambda request: _capability(request) or self._client(request),
        }
        if not callable(key) and key not in keys:
            raise ConfigurationError(f"key {key!r} is none of ip, caller, capability; or give a function")
        places = {"caller": -40, "capability": 5}
        self.priority = priority if priority is not None else places.get(key, -60) if isinstance(key, str) else -60
        self.uses = frozenset({"identity"} if key == "caller" else ())
        self.requires = frozenset({DECISION} if key == "capability" else ())
        self.enabled = True
        self._url = storage
        self._namespace = namespace
        self._timeout = timeout
        self._fail_open = fail_open
        self._address = ClientAddress(tuple(trusted_proxies))
        self._key = key if callable(key) else keys[key]
        self._strategy = _STRATEGIES[strategy]
        self._limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, RateLimiter] = weakref.WeakKeyDictionary()
        self._endings: weakref.WeakKeyDictionary[Any, AsyncGenerator[None]] = weakref.WeakKeyDictionary()
        policy = f'"default";q={self._item.amount};w={self._item.get_expiry()}'
        self._policy = header_change("RateLimit-Policy", policy)
        self._memory: RateLimiter | None = None
        self.waits = storage != "memory://"
        if self.waits:
            self._open()  # reports an unusable storage at the start, not at the first request
        elif strategy == "moving-window":
            raise ConfigurationError(
                "moving-window remembers every request; count in Redis (storage='redis://…'), or write exact to have"
                " this process remember them"
            )
        else:
            self._memory = self._strategy(CountingStorage())

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 429 above the limit, a 503 if the storage fails."""
        limiter = self._memory
        if limiter is None:
            # Connections belong to an event loop: each loop has a limiter.
            loop = asyncio.get_running_loop()
            limiter = self._limiters.get(loop)
            if limiter is None:
                limiter = self._limiters[loop] = self._open()
                self._endings[loop] = await at_loop_end(self._close_connections)
        name = self._key(request) or "-"
        try:
            # One limit around all steps: each of them may connect, send, and repeat that.
            async with asyncio.timeout(self._timeout) if self.waits else contextlib.nullcontext():
                inside = await limiter.hit(self._item, self._namespace, name)
                reset, remaining = await limiter.get_window_stats(self._item, self._namespace, name)
        except (StorageError, OSError) as exc:
            outcome = "PASSED UNCOUNTED" if self._fail_open else "refused"
            log.error("chio: %s, because the rate limit storage failed (%s)", outcome, type(exc).__name__)
            if self._fail_open:
                return None
            return Denial(
                status=503, code="chio_rate_limit_unavailable", message="the rate limiter is unavailable",
                guard="local/rate_limit", headers=(("retry-after", "1"),),
            )  # fmt: skip
        wait = max(0, math.ceil(reset - time.time()))
        # The fields of draft-ietf-httpapi-ratelimit-headers, sections 3 and 4.
        left = f'"default";r={max(0, remaining) if inside else 0};t={wait}'
        response_hooks(request).headers.extend((self._policy, header_change("RateLimit", left)))
        if inside:
            return None
        return Denial(
            status=429,
            code="chio_rate_limited",
            message=f"more than {self._item.amount} requests in {self._item.get_expiry()} seconds",
            guard="local/rate_limit",
            headers=(("retry-after", str(max(1, wait))),),
        )

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        ending = self._endings.pop(asyncio.get_running_loop(), None)
        if ending is not None:
            await ending.aclose()

    async def _close_connections(self) -> None:
        limiter = self._limiters.pop(asyncio.get_running_loop(), None)
        # The library cannot close its storage; the connections belong to the Redis client inside of it.
        client = getattr(getattr(getattr(limiter, "storage", None), "bridge", None), "storage", None)
        if client is not None and hasattr(client, "aclose"):
            await client.aclose()

    def check(self) -> list[Finding]:
        """Return a warning if each worker counts for itself."""
        if self._memory is None:
            return []
        text = "rate_limit counts in memory: each worker process allows the whole limit; give storage='redis://…'"
        return [Finding("WARN", "rate_limit_memory", text)]

    def _open(self) -> RateLimiter:
        options: dict[str, Any] = {"wrap_exceptions": True}
        if self._url.startswith("redis"):
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            # A connection that a restart has closed fails only when it is used, hence one retry, without a pause.
            options |= {"implementation": "redispy", "retry": Retry(NoBackoff(), 1)}
            options |= {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout}
        scheme = self._url.partition("://")[0] + "://…"
        try:
            storage = storage_from_string(f"async+{self._url}", **options)
        except Exception as exc:  # noqa: BLE001 - limits raises many types for an unusable URL
            # Their texts may repeat the URL, and with it a password.
            raise ConfigurationError(
                f"rate limit storage {scheme} cannot be used ({type(exc).__name__}); write memory:// or "
                "redis://HOST:PORT/DB, for which the package redis must be installed"
            ) from None
        if not isinstance(storage, Storage):
            raise ConfigurationError(f"rate limit storage {scheme} has no asynchronous form")
        return self._strategy(storage)

    def _client(self, request: GuardRequest) -> str | None:
        address = self._address(request)
        if address is None:
            return None
        if isinstance(address, IPv6Address):
            return f"{address.exploded[:19]}::/64"  # a provider usually assigns a /64 to one customer
        return str(address)


def _caller(request: GuardRequest) -> str | None:
    caller = getattr(request.state, STATE_CALLER, None)
    return caller.identity_hash() if caller is not None else None


def _capability(request: GuardRequest) -> str | None:
    decision = getattr(request.state, STATE_DECISION, None)
    receipt = decision.receipt if decision is not None and decision.verdict == "allow" else None
    # Without the prefix a capability could be named like an address.
    return f"capability {receipt.capability_id}" if receipt is not None and receipt.capability_id else None
