"""KeySet: an issuer's public keys (RFC 7517), fetched off the event loop, one fetch at a time.

A token that names an unknown key causes a fetch, since issuers rotate their keys; but everybody can write such
tokens, so there is a pause between fetches. When the issuer cannot be reached, keys count until their time is
over and not longer.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import jwt

from chio_core.errors import ConfigurationError

_FETCH_SECONDS = 5.0


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now."""


class KeySet:
    """The keys of one issuer.

    Args:
        url: where its key set is.
        lifespan: seconds that fetched keys count.
        cooldown: seconds between two fetches.

    Raises:
        ConfigurationError: the URL is not http or https.
    """

    def __init__(self, url: str, lifespan: float, cooldown: float) -> None:
        parts = urlsplit(url)
        try:
            # The cache of PyJWT is not used: it blocks all threads during a fetch, and forgets failures.
            self._source = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=_FETCH_SECONDS)
        except jwt.PyJWKClientError:
            raise ConfigurationError("jwks_url must be an http:// or https:// URL") from None
        self.is_private = parts.scheme == "https" or parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._lifespan = lifespan
        self._cooldown = cooldown
        self._keys: dict[str, jwt.PyJWK] = {}
        self._good_until = self._not_before = 0.0
        self._failed = False
        self._fetching: Future[dict[str, jwt.PyJWK]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def get(self, kid: str) -> jwt.PyJWK:
        """Return the key with this id, fetched if need be.

        Raises:
            KeysUnavailable: the issuer cannot be reached.
            jwt.InvalidTokenError: it has no such key.
        """
        if time.monotonic() >= self._good_until or kid not in self._keys:
            fetched = await self._refresh()
            if not fetched and (self._failed or time.monotonic() >= self._good_until):
                raise KeysUnavailable
        if kid not in self._keys:
            raise jwt.InvalidTokenError("the issuer has no such key")
        return self._keys[kid]

    def close(self) -> None:
        """End the thread that fetches; it is made anew when it is needed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False, cancel_futures=True)

    async def _refresh(self) -> bool:
        fetching = self._fetching
        if fetching is None:
            if time.monotonic() < self._not_before:
                return False
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="chio-jwks")
            fetching = self._fetching = self._thread.submit(self._fetch)
        try:
            # One fetch for all who wait; a request that is cancelled must not take it from the others.
            keys = await asyncio.shield(asyncio.wrap_future(fetching))
        except (jwt.PyJWTError, OSError, ValueError):
            keys = None
        if self._fetching is fetching:
            self._fetched(keys)
        return keys is not None

    def _fetched(self, keys: dict[str, Any] | None) -> None:
        now = time.monotonic()
        self._fetching, self._failed = None, keys is None
        self._not_before = now + self._cooldown
        if keys is not None:
            self._keys, self._good_until = keys, now + self._lifespan

    def _fetch(self) -> dict[str, jwt.PyJWK]:
        return {key.key_id: key for key in self._source.get_signing_keys() if key.key_id is not None}
