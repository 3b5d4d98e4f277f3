"""Asking a trust service whether capabilities were revoked, and who issues them (wire protocol, section 9).

Nothing is remembered between two requests. An answer that is missing, late or odd means that nobody knows, and
the caller must refuse. A question that takes too long is left alone and not cancelled: cancelling a call of the
HTTP client can leave its connection pool full for ever.
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


class AuthorityUnavailable(ChioError):
    """The trust service gave no usable answer in time."""

    code = "chio_revocation_authority_unavailable"


class RevocationAuthority:
    """A trust service; may be asked from several event loops.

    Args:
        url: its base URL.
        token: its service token, or None.
        timeout: seconds that all questions about one request may take together.
        transport: stands in for the network.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout = timeout
        self._transport = transport
        # Connections belong to the event loop in which they were opened.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._questions: set[asyncio.Task[Any]] = set()

    @classmethod
    def from_config(cls, config: SidecarConfig) -> RevocationAuthority | None:
        """Return the configured service, or None when there is none."""
        if config.control_url is None:
            return None
        token = config.control_service_token
        return cls(
            config.control_url,
            None if token is None else token.get_secret_value(),
            timeout=config.control_timeout,
            transport=config.control_transport,
        )

    async def first_revoked(self, capability_ids: Sequence[str]) -> str | None:
        """Return the first of these capabilities that was revoked, or None.

        Raises:
            AuthorityUnavailable: for one of them nobody can tell.
        """
        client = self._client()
        answers = await self._all([self._is_revoked(client, name) for name in capability_ids])
        return next((name for name, revoked in zip(capability_ids, answers, strict=True) if revoked), None)

    async def issuers(self) -> frozenset[str]:
        """Return the public keys (hex) that the authority signs with, or has signed with.

        Raises:
            AuthorityUnavailable: nobody can tell.
        """
        (keys,) = await self._all([self._authority_keys(self._client())])
        return keys

    async def close(self) -> None:
        """Drop what is still asked in the running event loop, and its connections; other loops end with theirs."""
        loop = asyncio.get_running_loop()
        late = [question for question in list(self._questions) if question.get_loop() is loop]
        for question in late:
            question.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        client = self._clients.pop(loop, None)
        if client is not None:
            await client.aclose()

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = httpx.AsyncClient(
                headers=self._headers,
                timeout=self._timeout,
                transport=self._transport,
                # A proxy of the environment is for the outside world; this machine is asked directly.
                trust_env=not is_loopback_url(self._url),
            )
        return self._clients[loop]

    async def _all(self, asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        questions = [asyncio.create_task(one) for one in asked]
        for question in questions:
            self._questions.add(question)
            question.add_done_callback(self._forget)
        _, late = await asyncio.wait(questions, timeout=self._timeout)
        if late:
            raise self._unavailable(f"no answer within {self._timeout:g} s")
        return [question.result() for question in questions]

    async def _authority_keys(self, client: httpx.AsyncClient) -> frozenset[str]:
        document = await self._document(client, "/v1/authority", {})
        keys = document.get("trustedPublicKeys") or []
        try:
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise InvalidDocument("no list of texts")
            return frozenset(map(normalize_public_key, keys))
        except InvalidDocument:
            raise self._unavailable("an answer with keys that are none") from None

    async def _is_revoked(self, client: httpx.AsyncClient, capability_id: str) -> bool:
        query = {"capabilityId": capability_id, "limit": "1"}
        document = await self._document(client, "/v1/revocations", query)
        revoked = document.get("revoked")
        if not isinstance(revoked, bool) or document.get("capabilityId") != capability_id:
            raise self._unavailable("an answer to another question")
        return revoked

    async def _document(self, client: httpx.AsyncClient, path: str, query: dict[str, str]) -> dict[str, Any]:
        try:
            answer = await client.get(self._url + path, params=query)
            document: Any = parse_json(answer.content)
        except (httpx.HTTPError, InvalidDocument) as exc:
            raise self._unavailable(type(exc).__name__) from None
        if answer.status_code != 200 or not isinstance(document, dict):
            raise self._unavailable(f"status {answer.status_code}")
        return document

    def _forget(self, question: asyncio.Task[Any]) -> None:
        self._questions.discard(question)
        if not question.cancelled():
            question.exception()  # seen, also when nobody waits for it any more

    def _unavailable(self, why: str) -> AuthorityUnavailable:
        log.warning("revocation authority at %s is unavailable: %s", self._url, why)
        return AuthorityUnavailable(f"the revocation authority is unavailable: {why}")


EVERY: Final = 10.0
"""Seconds between two questions: whoever makes up issuers must not keep the authority busy."""


class FollowedIssuers:
    """The issuers that an authority names; may be asked from several event loops.

    Args:
        authority: the trust service.
        clock: seconds since 1970.
    """

    def __init__(self, authority: RevocationAuthority, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._clock = clock
        self._asked: float | None = None
        self._lock = threading.Lock()

    async def named(self) -> frozenset[str]:
        """Return the public keys (hex) that the authority names; none where it was asked just now or is silent."""
        if not self._due():
            return frozenset()
        try:
            return await self._authority.issuers()
        except AuthorityUnavailable:
            return frozenset()  # its capabilities stay untrusted, and the log has said why

    def _due(self) -> bool:
        with self._lock:
            now = self._clock()
            if self._asked is not None and 0 <= now - self._asked < EVERY:
                return False
            self._asked = now
            return True
