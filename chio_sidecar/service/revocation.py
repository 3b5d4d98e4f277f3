"""Queries to a trust service: were capabilities revoked, and which keys issue them (wire protocol, section 9)?

Nothing is cached between requests. A missing, late or malformed response means that the state is unknown, and the
caller must refuse. A query that takes too long is left running and not cancelled: cancelling a call of httpx can leave
its connection pool full for ever.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

import httpx

from chio_core.canonical import parse_json
from chio_core.errors import ChioError, InvalidDocument
from chio_core.signing import normalize_public_key
from chio_sidecar.config import SidecarConfig
from chio_sidecar.trust.client import is_loopback_url

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY: Final = 10.0
"""Seconds between two queries for keys: callers who make up issuers must not keep the authority busy."""


class AuthorityUnavailable(ChioError):
    """The trust service gave no usable response in time."""

    code = "chio_revocation_authority_unavailable"


class RevocationAuthority:
    """A trust service; may be used from several event loops.

    Args:
        url: its base URL.
        token: its service token, or None.
        timeout: seconds that all queries about one request may take together.
        transport: replaces the network.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        transport: httpx.AsyncBaseTransport | None,
        clock: Callable[[], float],
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._transport = transport
        self._clock = clock
        # Connections belong to the event loop in which they were opened.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._queries: set[asyncio.Task[Any]] = set()
        self._keys_queried: float | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: SidecarConfig) -> RevocationAuthority | None:
        """Return the trust service that the options name, or None."""
        if config.control_url is None:
            return None
        token = config.control_service_token
        return cls(
            config.control_url,
            None if token is None else token.get_secret_value(),
            timeout=config.control_timeout,
            transport=config.control_transport,
            clock=config.clock,
        )

    async def first_revoked(self, capability_ids: Sequence[str]) -> str | None:
        """Return the first of these capabilities that was revoked, or None.

        Raises:
            AuthorityUnavailable: the state of one of them is unknown.
        """

        async def is_revoked(capability_id: str) -> bool:
            document = await self._get("/v1/revocations", capabilityId=capability_id, limit="1")
            revoked = document.get("revoked")
            if not isinstance(revoked, bool) or document.get("capabilityId") != capability_id:
                raise self._unavailable("a response about another capability")
            return revoked

        revoked = await self._all([is_revoked(capability_id) for capability_id in capability_ids])
        return next((name for name, is_one in zip(capability_ids, revoked, strict=True) if is_one), None)

    async def authority_keys(self) -> frozenset[str]:
        """Return the public keys (hex) that the authority signs with, or has signed with.

        Returns:
            Nothing if the last query was less than `EVERY` seconds ago, or if the authority is unavailable: its
            capabilities then stay untrusted.
        """
        with self._lock:
            now = self._clock()
            if self._keys_queried is not None and 0 <= now - self._keys_queried < EVERY:
                return frozenset()
            self._keys_queried = now
        try:
            (document,) = await self._all([self._get("/v1/authority")])
            keys = document.get("trustedPublicKeys") or []
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise InvalidDocument("not a list of texts")
            return frozenset(map(normalize_public_key, keys))
        except InvalidDocument:
            self._unavailable("a response with malformed keys")
        except AuthorityUnavailable:
            pass  # the log says why
        return frozenset()

    async def close(self) -> None:
        """Cancel the queries of the running event loop and close its connections; other loops end with theirs."""
        loop = asyncio.get_running_loop()
        late = [query for query in list(self._queries) if query.get_loop() is loop]
        for query in late:
            query.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        client = self._clients.pop(loop, None)
        if client is not None:
            await client.aclose()

    async def _all(self, queries: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Run queries at the same time, together at most `timeout` seconds."""

        def forget(task: asyncio.Task[T]) -> None:
            self._queries.discard(task)
            if not task.cancelled():
                task.exception()  # else asyncio logs an exception that was never retrieved

        tasks = [asyncio.create_task(query) for query in queries]
        for task in tasks:
            self._queries.add(task)
            task.add_done_callback(forget)
        _, late = await asyncio.wait(tasks, timeout=self._timeout)
        if late:
            raise self._unavailable(f"no answer within {self._timeout:g} s")
        return [task.result() for task in tasks]

    async def _get(self, path: str, **query: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(
                headers=self._headers,
                timeout=self._timeout,
                transport=self._transport,
                # A proxy of the environment is for other machines, not for this one.
                trust_env=not is_loopback_url(self._url),
            )
        try:
            response = await self._clients[loop].get(self._url + path, params=query)
            document: Any = parse_json(response.content)
        except (httpx.HTTPError, InvalidDocument) as exc:
            raise self._unavailable(type(exc).__name__) from None
        if response.status_code != 200 or not isinstance(document, dict):
            raise self._unavailable(f"status {response.status_code}")
        return document

    def _unavailable(self, why: str) -> AuthorityUnavailable:
        log.warning("revocation authority at %s is unavailable: %s", self._url, why)
        return AuthorityUnavailable(f"the revocation authority is unavailable: {why}")
