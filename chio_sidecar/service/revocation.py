"""Queries to a trust service: were capabilities revoked, and which keys issue them (wire protocol, section 9)?

Nothing is cached between requests. A missing, late or malformed response means that the state is unknown, and the
caller must refuse.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode
from weakref import WeakKeyDictionary

from chio_core.canonical import parse_json
from chio_core.capabilities import DEFAULT_MAX_DEPTH
from chio_core.errors import ChioError, InvalidDocument, Overloaded, SidecarError, SidecarTimeout, SidecarUnreachable
from chio_core.models.capability import CapabilityToken
from chio_core.signing import normalize_public_key
from chio_sidecar.config import SidecarConfig
from chio_sidecar.store.issuers import is_issuer_name, issuer_name

if TYPE_CHECKING:
    from chio_core.client.carrier import Getter

log = logging.getLogger(__name__)

EVERY: Final = 10.0
"""Seconds between two queries for keys: callers who make up issuers must not keep the authority busy."""

_LONGEST_QUERY: Final = 4000  # characters; some servers accept 8 kB of request line and headers


def revocable(capability: CapabilityToken) -> tuple[str, ...]:
    """Return what may be revoked: the ids of a token and of those that it was derived from, and names of issuers.

    These are the token's issuer and the delegator of each link: a withdrawn key has signed no valid link either.
    """
    links = capability.delegation_chain[:DEFAULT_MAX_DEPTH]
    issuers = map(issuer_name, (capability.issuer, *(link.delegator for link in links)))
    return tuple(dict.fromkeys((capability.id, *(link.capability_id for link in links), *issuers)))


class AuthorityUnavailable(ChioError):
    """The trust service gave no usable response in time."""

    code = "chio_revocation_authority_unavailable"


class RevocationAuthority:
    """A trust service; may be used from several event loops.

    Args:
        url: its base URL.
        token: its service token, or None.
        timeout: seconds that all queries about one request may take together.
        carrier: opens what carries the queries of one event loop.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        carrier: Callable[[], Getter],
        clock: Callable[[], float],
    ) -> None:
        self._url = url
        self._headers = () if token is None else (("authorization", f"Bearer {token}"),)
        self._timeout = timeout
        self._open_carrier = carrier
        self._clock = clock
        # Connections belong to the event loop in which they were opened.
        self._carriers: WeakKeyDictionary[asyncio.AbstractEventLoop, Getter] = WeakKeyDictionary()
        self._keys_queried: float | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_config(cls, config: SidecarConfig) -> RevocationAuthority | None:
        """Return the trust service that the options name, or None."""
        if config.control_url is None or config.control_carrier is None:
            return None
        token = config.control_service_token
        return cls(
            config.control_url,
            None if token is None else token.get_secret_value(),
            timeout=config.control_timeout,
            carrier=config.control_carrier,
            clock=config.clock,
        )

    async def first_revoked(self, capability_ids: Sequence[str]) -> str | None:
        """Return the first of these names that was revoked, or None.

        Args:
            capability_ids: a token, its ancestors, and who signed them, see `revocable`.

        Raises:
            AuthorityUnavailable: the state of one of them is unknown.
        """
        deadline = self._deadline()
        token, *ancestors = capability_ids
        revoked: dict[str, bool] = {}

        async def query(name: str, *more: tuple[str, str]) -> dict[str, Any]:
            parameters = [("capabilityId", name), ("limit", "1"), *more]
            document = await self._get(f"/v1/revocations?{urlencode(parameters, quote_via=quote)}", deadline)
            state = document.get("revoked")
            if not isinstance(state, bool) or document.get("capabilityId") != name:
                raise self._unavailable("a response about another capability")
            revoked[name] = state
            return document

        # This project's trust service answers about the ancestors too; others ignore a parameter that they do not know.
        more = [("ancestorId", name) for name in ancestors]
        at_once = more if len(urlencode(more)) <= _LONGEST_QUERY else []
        document = await query(token, *at_once)
        answered = document.get("ancestors")
        for item in answered if at_once and isinstance(answered, list) else ():
            match item:
                case {"capabilityId": str(name), "revoked": bool(state)}:
                    revoked.setdefault(name, state)
        # A service that does not answer about ancestors does not know names of issuers either.
        ignores = bool(at_once) and not revoked.keys() & set(ancestors)
        unknown = [name for name in ancestors if name not in revoked and not (ignores and is_issuer_name(name))]
        if unknown:
            await asyncio.gather(*map(query, unknown))
        return next((name for name in capability_ids if revoked.get(name)), None)

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
            document = await self._get("/v1/authority", self._deadline())
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
        """End the queries of the running event loop and close its connections; other loops end with theirs."""
        carrier = self._carriers.pop(asyncio.get_running_loop(), None)
        if carrier is not None:
            await carrier.aclose()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    async def _get(self, target: str, deadline: float) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        carrier = self._carriers.get(loop)
        if carrier is None:
            carrier = self._carriers[loop] = self._open_carrier()
        try:
            response = await carrier.get(target, self._headers, deadline - loop.time())
            document: Any = parse_json(response.body)
        except SidecarError as exc:
            raise self._unavailable(self._reason(exc)) from None
        except InvalidDocument:
            raise self._unavailable("a response that is not JSON") from None
        if response.status != 200 or not isinstance(document, dict):
            raise self._unavailable(f"status {response.status}")
        return document

    def _reason(self, error: SidecarError) -> str:
        match error:
            case SidecarUnreachable():
                return "no connection"
            case SidecarTimeout():
                return f"no answer within {self._timeout:g} s"
            case Overloaded():
                return "this process is too busy to ask, or was closed"
        return "the exchange broke"

    def _unavailable(self, why: str) -> AuthorityUnavailable:
        log.warning("revocation authority at %s is unavailable: %s", self._url, why)
        return AuthorityUnavailable(f"the revocation authority is unavailable: {why}")
