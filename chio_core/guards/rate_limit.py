"""RateLimit: so many requests per caller and time, counted by the library `limits` in memory or in Redis.

Memory counts per process: N workers allow N times the limit, and `check()` says so. Redis counts for all of
them. When Redis cannot be asked, requests are refused (503), or pass where `fail_open` was chosen.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address
from typing import Any

from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    MovingWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)
from limits.errors import StorageError
from limits.storage import storage_from_string

from chio_core.canonical import sha256_hex
from chio_core.errors import ConfigurationError
from chio_core.guards.addresses import ClientAddress
from chio_core.guards.chain import Finding
from chio_core.guards.response_hooks import header_change, response_hooks
from chio_core.names import CAPABILITY_HEADER, LOGGER, STATE_CALLER
from chio_core.refusals.response import Denial
from chio_core.request import GuardRequest


class CountingStorage(MemoryStorage):
    """Counters that are forgotten when they are over."""

    STORAGE_SCHEME = None  # type: ignore[assignment]  # not to be registered for others
    _FORGET_AT_ONCE = 3

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._over: deque[tuple[float, str]] = deque()

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Count `amount` more for a key, which is forgotten `expiry` seconds after its first hit."""
        now = time.time()
        with self._lock:
            self._forget(now)
            if self.expirations.get(key, 0) <= now:
                self.storage[key] = 0
                self.expirations[key] = now + expiry
                self._over.append((now + expiry, key))
            self.storage[key] += amount
            return self.storage[key]

    async def decr(self, key: str, amount: int = 1) -> int:
        """Take `amount` back."""
        with self._lock:
            self.storage[key] = max(0, self.storage.get(key, 0) - amount)
            return self.storage[key]

    async def get(self, key: str) -> int:
        """Return the count of a key, 0 when it is over."""
        return self.storage.get(key, 0) if self.expirations.get(key, 0) > time.time() else 0

    def _forget(self, now: float) -> None:
        # One limiter counts for one length of time, so what was begun first is over first.
        for _ in range(self._FORGET_AT_ONCE):
            if not self._over or self._over[0][0] > now:
                return
            _, key = self._over.popleft()
            if self.expirations.get(key, 0) <= now:
                self.expirations.pop(key, None)
                self.storage.pop(key, None)


log = logging.getLogger(LOGGER)

Key = Callable[[GuardRequest], "str | None"]
"""Returns whom to count a request for; None counts all such requests together."""

_STRATEGIES: dict[str, type[RateLimiter]] = {
    "fixed-window": FixedWindowRateLimiter,
    "moving-window": MovingWindowRateLimiter,
    "sliding-window-counter": SlidingWindowCounterRateLimiter,
}


class RateLimit:
    """Refuses with 429 what exceeds a limit, and tells on every answer how much is left.

    Args:
        limit: `5/minute`, `100 per 10 seconds` and so on, as `limits` reads it.
        storage: `memory://`, `redis://HOST:PORT/DB`, or what else `limits` knows.
        key: `ip` (an IPv6 client counts by its /64), `caller` (one that `JwtAuth` has verified, else the address),
            `capability`, or your own function.
        strategy: `sliding-window-counter`, `fixed-window`, or (in Redis only) `moving-window`.
        namespace: requests are counted together with those of other limits of the same namespace and length.
        timeout: seconds that one step of the storage may take.
        fail_open: let requests pass while the storage cannot be asked.
        trusted_proxies: whose `X-Forwarded-For` counts for `ip`.
        priority: place in the chain; inside of `JwtAuth` for the key `caller`, else outside.

    Raises:
        ConfigurationError: a limit, storage, key or strategy that is none.
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
        self.priority = priority if priority is not None else -40 if key == "caller" else -60
        self.uses = frozenset({"identity"} if key == "caller" else ())
        self.enabled = True
        self._item = _parse(limit)
        self._url = storage
        self._namespace = namespace
        self._timeout = timeout
        self._fail_open = fail_open
        self._address = ClientAddress(tuple(trusted_proxies))
        self._key = self._key_function(key)
        if strategy not in _STRATEGIES:
            raise ConfigurationError(f"strategy {strategy!r} is none of {', '.join(sorted(_STRATEGIES))}")
        self._strategy = _STRATEGIES[strategy]
        self._memory = self._in_memory() if storage == "memory://" else None
        self.waits = self._memory is None
        self._limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, RateLimiter] = weakref.WeakKeyDictionary()
        policy = f'"default";q={self._item.amount};w={self._item.get_expiry()}'
        self._policy = header_change("RateLimit-Policy", policy)
        if self._memory is None:
            self._open()  # a storage that cannot exist is a mistake of the configuration, said at once

    async def __call__(self, request: GuardRequest) -> Denial | None:
        """Return a 429 above the limit, a 503 when nobody can count."""
        who = self._key(request) or "-"
        limiter = self._limiter()
        try:
            inside = await limiter.hit(self._item, self._namespace, who)
            reset, remaining = await limiter.get_window_stats(self._item, self._namespace, who)
        except (StorageError, OSError) as exc:
            return self._unavailable(exc)
        wait = max(0, math.ceil(reset - time.time()))
        self._tell(request, remaining if inside else 0, wait)
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
        limiter = self._limiters.pop(asyncio.get_running_loop(), None)
        # The library has no way to close its storage; the connections are those of the Redis client inside of it.
        client = getattr(getattr(getattr(limiter, "storage", None), "bridge", None), "storage", None)
        if client is not None and hasattr(client, "aclose"):
            await client.aclose()

    def check(self) -> list[Finding]:
        """Return a warning for a limit that each worker counts by itself."""
        if self._memory is None:
            return []
        text = "rate_limit counts in memory: each worker process allows the whole limit; give storage='redis://…'"
        return [Finding("WARN", "rate_limit_memory", text)]

    def _tell(self, request: GuardRequest, remaining: int, wait: int) -> None:
        # The fields of draft-ietf-httpapi-ratelimit-headers, section 3 and 4.
        left = ("ratelimit", "RateLimit", f'"default";r={max(0, remaining)};t={wait}', True)
        response_hooks(request).headers.extend((self._policy, left))

    def _unavailable(self, exc: Exception) -> Denial | None:
        outcome = "PASSED UNCOUNTED" if self._fail_open else "refused"
        log.error("chio: %s, since the rate limit storage cannot be asked (%s)", outcome, type(exc).__name__)
        if self._fail_open:
            return None
        return Denial(
            status=503,
            code="chio_rate_limit_unavailable",
            message="the rate limiter is unavailable",
            guard="local/rate_limit",
            headers=(("retry-after", "1"),),
        )

    def _limiter(self) -> RateLimiter:
        if self._memory is not None:
            return self._memory
        # Connections belong to an event loop; another loop gets its own.
        loop = asyncio.get_running_loop()
        limiter = self._limiters.get(loop)
        if limiter is None:
            limiter = self._limiters[loop] = self._open()
        return limiter

    def _in_memory(self) -> RateLimiter:
        if self._strategy is MovingWindowRateLimiter:
            raise ConfigurationError(
                "moving-window remembers every request; count in Redis (storage='redis://…') or by another strategy"
            )
        return self._strategy(CountingStorage())

    def _open(self) -> RateLimiter:
        options: dict[str, Any] = {"wrap_exceptions": True}
        if self._url.startswith("redis"):
            options |= {"implementation": "redispy", **_redis_options(self._timeout)}
        try:
            storage = storage_from_string(f"async+{self._url}", **options)
        except Exception as exc:  # noqa: BLE001 - limits raises many types here, and all mean this
            # Their texts may repeat the URL, and with it a password.
            raise ConfigurationError(
                f"rate limit storage {_scheme(self._url)} cannot be used ({type(exc).__name__}); write memory:// or "
                "redis://HOST:PORT/DB, for which the package redis must be installed"
            ) from None
        if not isinstance(storage, Storage):
            raise ConfigurationError(f"rate limit storage {_scheme(self._url)} has no asynchronous form")
        return self._strategy(storage)

    def _key_function(self, key: str | Key) -> Key:
        if callable(key):
            return key
        if key == "ip":
            return self._client
        if key == "caller":
            return lambda request: _caller(request) or self._client(request)
        if key == "capability":
            return _capability
        raise ConfigurationError(f"key {key!r} is none of ip, caller, capability; or give a function")

    def _client(self, request: GuardRequest) -> str | None:
        address = self._address(request)
        if address is None:
            return None
        if isinstance(address, IPv6Address):
            return f"{address.exploded[:19]}::/64"  # one customer is usually given that many addresses
        return str(address)


def _redis_options(timeout: float) -> dict[str, Any]:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # A connection that a restart has closed is found out by using it, hence one more try; no waiting in between.
    return {"socket_timeout": timeout, "socket_connect_timeout": timeout, "retry": Retry(NoBackoff(), 1)}


def _caller(request: GuardRequest) -> str | None:
    caller = getattr(request.state, STATE_CALLER, None)
    return caller.identity_hash() if caller is not None else None


def _capability(request: GuardRequest) -> str | None:
    token = request.headers.get(CAPABILITY_HEADER.lower())
    return sha256_hex(token.encode()) if token else None


def _parse(limit: str) -> RateLimitItem:
    try:
        return parse(limit)
    except ValueError:
        raise ConfigurationError(f"{limit!r} is no rate limit; write 5/minute or 100 per 10 seconds") from None


def _scheme(url: str) -> str:
    return url.partition("://")[0] + "://…"
