"""Asking a trust service whether capabilities were revoked (wire protocol, section 9.6).

Nothing is remembered between two requests. An answer that is missing, late or odd means that nobody knows, and
the caller must refuse. A question that takes too long is left alone and not cancelled: cancelling a call of the
HTTP client can leave its connection pool full for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from chio_core.canonical import parse_json
from chio_core.errors import ChioError, InvalidDocument
from chio_sidecar.config import SidecarConfig
from chio_sidecar.trust.client import is_loopback_url

log = logging.getLogger(__name__)


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
        self._questions: set[asyncio.Task[bool]] = set()

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
        questions = [asyncio.create_task(self._is_revoked(client, name)) for name in capability_ids]
        for question in questions:
            self._questions.add(question)
            question.add_done_callback(self._forget)
        _, late = await asyncio.wait(questions, timeout=self._timeout)
        if late:
            raise self._unavailable(f"no answer within {self._timeout:g} s")
        answers = [question.result() for question in questions]
        return next((name for name, revoked in zip(capability_ids, answers, strict=True) if revoked), None)

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

    async def _is_revoked(self, client: httpx.AsyncClient, capability_id: str) -> bool:
        query = {"capabilityId": capability_id, "limit": "1"}
        try:
            answer = await client.get(f"{self._url}/v1/revocations", params=query)
            document: Any = parse_json(answer.content)
        except (httpx.HTTPError, InvalidDocument) as exc:
            raise self._unavailable(type(exc).__name__) from None
        if answer.status_code != 200 or not isinstance(document, dict):
            raise self._unavailable(f"status {answer.status_code}")
        revoked = document.get("revoked")
        if not isinstance(revoked, bool) or document.get("capabilityId") != capability_id:
            raise self._unavailable("an answer to another question")
        return revoked

    def _forget(self, question: asyncio.Task[bool]) -> None:
        self._questions.discard(question)
        if not question.cancelled():
            question.exception()  # seen, also when nobody waits for it any more

    def _unavailable(self, why: str) -> AuthorityUnavailable:
        log.warning("revocation authority at %s is unavailable: %s", self._url, why)
        return AuthorityUnavailable(f"the revocation authority is unavailable: {why}")
