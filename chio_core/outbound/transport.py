"""ChioTransport and SyncChioTransport: a chain of members around any transport of httpx or httpx2.

    client = httpx.AsyncClient(transport=ChioTransport(httpx.AsyncHTTPTransport(), GovernOutbound(...), Timing()))

A transport sees every hop, which event hooks do not: a redirect that the client follows runs through the whole chain
again. Under a `GovernOutbound`, no member can undo these rules:

1. One decision, one send: the request that the sidecar has allowed goes to the network, unchanged and once.
2. No outer member answers with success: a status below 400 without a decision is an error that names the member.
3. A hop to another origin, or back from one, carries no credential, even if a member adds one.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Collection
from typing import Any, Final

import httpx

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Finding, Member
from chio_core.outbound.govern import GovernOutbound, use_ticket
from chio_core.outbound.hop import Hop, carry, copy_of, enter, strip
from chio_core.outbound.member import MiddlewareChain, SyncFunction

PASSES_BY: Final = frozenset({"cookies", "mounts", "proxy"})
"""Options of an httpx client that would make it send, or keep state, without the transport that it was given."""

OF_THE_TRANSPORT: Final = frozenset({"cert", "http1", "http2", "limits", "proxy", "trust_env", "verify"})
"""Options of an httpx client that it ignores if it was given a transport: they belong to `httpx.AsyncHTTPTransport`."""


class _Ordered:
    """The frozen chain, and the checks that both transports share."""

    def __init__(self, members: tuple[Any, ...], credential_headers: Collection[str]) -> None:
        if isinstance(credential_headers, str):
            raise ConfigurationError("credential_headers takes a collection of names; write [name]")
        given = MiddlewareChain(*members)
        given.freeze()
        self.chain = given.again()  # attributes may have changed since a chain was made
        self._members, self._places = self.chain.freeze(), self.chain.places()
        self._governed = self.chain.governed
        self._credentials = {name.lower() for name in credential_headers}
        for member in self._members:
            if isinstance(member.guard, GovernOutbound):
                self._credentials |= member.guard.secret_headers

    def check(self) -> list[Finding]:
        """Return what will run, by name and in order."""
        return self.chain.check()

    def _current(self) -> tuple[Member, ...]:
        # Priorities and methods of members may change while the client lives.
        places = self.chain.places()
        if places != self._places:
            self.chain = self.chain.again()
            self._members, self._places = self.chain.freeze(), places
        return self._members

    def _next_member(self, members: tuple[Member, ...], at: int, method: str) -> int:
        while at < len(members):
            member = members[at]
            # The same rule as in `chio_core.guards.run`; httpx has made the method upper case.
            if member.is_decide or (
                (member.methods is None or method in member.methods) and getattr(member.guard, "enabled", True)
            ):
                break
            at += 1
        return at

    def _leaving(self, request: Any, hop: Hop) -> Any:
        strip(request, hop, self._credentials)
        if self._governed:
            request = copy_of(request)  # a member that still holds the request cannot change the one that is compared
            use_ticket(request)
        hop.sent = request
        return request

    def _checked(self, member: Member, response: Any, hop: Hop) -> Any:
        if not hasattr(response, "status_code"):
            raise ConfigurationError(f"{member.name} returned {type(response).__name__}; return the response")
        if self._governed and not hop.opened and response.status_code < 400:
            raise ConfigurationError(
                f"{member.name} answered {response.status_code} without a decision; give it a priority above 0"
            )
        return response


class ChioTransport(_Ordered, httpx.AsyncBaseTransport):
    """Runs members around an asynchronous transport.

    Args:
        inner: the sending transport, for example `httpx.AsyncHTTPTransport()`; it is closed with this one.
        members: members, chains of them, or lists of either.
        credential_headers: further headers that never follow a redirect to another origin.

    Attributes:
        chain: the members. Their priorities and methods count as they are at each request.

    Raises:
        ConfigurationError: the order cannot work, or a member is synchronous.
    """

    def __init__(self, inner: Any, *members: Any, credential_headers: Collection[str] = ()) -> None:
        if not hasattr(inner, "handle_async_request"):
            raise ConfigurationError("ChioTransport needs a transport first, for example httpx.AsyncHTTPTransport()")
        super().__init__(members, credential_headers)
        self.inner = inner
        for member in self._members:
            if isinstance(member.guard, SyncFunction):
                raise ConfigurationError(f"{member.name} must be `async def`: a blocking member stops every call")
            if isinstance(member.guard, GovernOutbound):
                member.guard.check_client(sync=False)

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request through the members; the client calls this for each hop."""
        outgoing, hop = enter(request, self._credentials)
        try:
            return await self._from(self._current(), 0, outgoing, hop)
        finally:
            hop.sent = None  # it holds credentials, and would keep itself alive

    async def _from(self, members: tuple[Member, ...], at: int, request: Any, hop: Hop) -> Any:
        at = self._next_member(members, at, request.method)
        if at == len(members):
            return await self.inner.handle_async_request(self._leaving(request, hop))
        member = members[at]

        def following(changed: Any) -> Awaitable[Any]:
            carry(request, changed)
            return self._from(members, at + 1, changed, hop)

        return self._checked(member, await member.guard(request, following), hop)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()


class SyncChioTransport(_Ordered, httpx.BaseTransport):
    """The same for `httpx.Client`.

    Args:
        inner: the sending transport, for example `httpx.HTTPTransport()`; it is closed with this one.
        members: `def member(request, next)`, or objects with a method `sync(request, next)`: all members of this
            package, and every `BaseMiddleware` whose hooks await nothing.
        credential_headers: see `ChioTransport`.

    Raises:
        ConfigurationError: the order cannot work, or a member is asynchronous only.
    """

    def __init__(self, inner: Any, *members: Any, credential_headers: Collection[str] = ()) -> None:
        if not hasattr(inner, "handle_request"):
            raise ConfigurationError("SyncChioTransport needs a transport first, for example httpx.HTTPTransport()")
        super().__init__(members, credential_headers)
        self.inner = inner
        for member in self._members:
            sync = getattr(member.guard, "sync", None)
            if not callable(sync) or inspect.iscoroutinefunction(sync):
                raise ConfigurationError(
                    f"{member.name} is asynchronous only; use ChioTransport, or give it a method sync()"
                )
            if isinstance(member.guard, GovernOutbound):
                member.guard.check_client(sync=True)

    def handle_request(self, request: Any) -> Any:
        """Send one request through the members; the client calls this for each hop."""
        outgoing, hop = enter(request, self._credentials)
        try:
            return self._from(self._current(), 0, outgoing, hop)
        finally:
            hop.sent = None  # it holds credentials, and would keep itself alive

    def _from(self, members: tuple[Member, ...], at: int, request: Any, hop: Hop) -> Any:
        at = self._next_member(members, at, request.method)
        if at == len(members):
            return self.inner.handle_request(self._leaving(request, hop))
        member = members[at]

        def following(changed: Any) -> Any:
            carry(request, changed)
            return self._from(members, at + 1, changed, hop)

        return self._checked(member, member.guard.sync(request, following), hop)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the inner transport."""
        self.inner.close()


class Borrowed:
    """A transport that the client uses and does not close: it belongs to the caller."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self.handle_async_request = inner.handle_async_request

    async def aclose(self) -> None:
        """Do nothing."""
