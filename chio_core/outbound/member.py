"""OutboundMember: what all members of an outgoing chain have in common, and Flow, from which the ready ones are made.

A member is `async def member(request, next)` or, for the synchronous transport, `def member(request, next)`. A
class serves both with a `__call__` of the first kind and a method `sync` of the second.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Generator
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Chain, Member

AsyncNext = Callable[[Any], Awaitable[Any]]
"""Sends a request through the rest of the chain."""

SyncNext = Callable[[Any], Any]


class OutboundMember:
    """A member with its place written in attributes; `a | b` makes a chain.

    Attributes:
        __priority__: lower is further out: first on the way in, last on the way back.
        __methods__: methods that it runs for, in any case; None for all.
        __enabled__: False skips it, from the next request on.
        __return_type__: for readers; nothing depends on it.
    """

    __return_type__: Any = None
    __priority__: int = 10
    __methods__: Collection[str] | None = None
    __enabled__: bool = True

    @property
    def priority(self) -> int:
        """The place in the chain."""
        return self.__priority__

    @property
    def methods(self) -> Collection[str] | None:
        """Methods that it runs for; None for all."""
        return self.__methods__

    @property
    def enabled(self) -> bool:
        """False while it is switched off."""
        return self.__enabled__

    def __or__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(self, other)

    def __ror__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(other, self)


FlowSteps = Generator[Any, Any, Any]
"""Yields requests to send, is sent their responses, returns the final one."""


class Flow(OutboundMember):
    """A member that needs no I/O of its own, written once for both kinds of transport.

    Subclasses write `flow`; errors of the rest of the chain are raised at the `yield`.
    """

    def flow(self, request: Any) -> FlowSteps:
        """Yield the request to send and return the response; a return without `yield` sends nothing."""
        return (yield request)

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Run around an asynchronous send."""
        flow = self.flow(request)
        step: Callable[[Any], Any] = flow.send
        value: Any = None
        try:
            while True:
                outgoing = step(value)
                try:
                    value, step = await following(outgoing), flow.send
                except Exception as error:  # noqa: BLE001 - the flow decides what becomes of it
                    value, step = error, flow.throw
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()

    def sync(self, request: Any, following: SyncNext) -> Any:
        """Run around a synchronous send."""
        flow = self.flow(request)
        step: Callable[[Any], Any] = flow.send
        value: Any = None
        try:
            while True:
                outgoing = step(value)
                try:
                    value, step = following(outgoing), flow.send
                except Exception as error:  # noqa: BLE001 - see above
                    value, step = error, flow.throw
        except StopIteration as stop:
            return stop.value
        finally:
            flow.close()


class SyncFunction:
    """A `def member(request, next)`: it runs on the synchronous transport only."""

    def __init__(self, function: Callable[[Any, SyncNext], Any]) -> None:
        self.sync = function
        self.name = str(getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__))
        if len(inspect.signature(function).parameters) != 2:
            raise ConfigurationError(f"{self.name} must take (request, next); it stands around a network call")

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Refuse; a transport that would call this says so when it is made."""
        raise ConfigurationError(f"{self.name} is a synchronous member; write it as `async def`")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.sync, name)


class MiddlewareChain(Chain):
    """An ordered set of members; `a | b` and `MiddlewareChain(a, b)` are the same.

    Args:
        members: members, chains, or lists of them; outermost first among those of equal priority.

    Raises:
        ConfigurationError: something that is no member.
    """

    def __init__(self, *members: Any) -> None:
        super().__init__(*flat(members))

    def add(self, guard: Any, **place: Any) -> MiddlewareChain:
        """Add a member.

        Args:
            place: `priority`, `name`, `methods` and so on, as `chio_core.guards.chain.Chain.add` takes them.

        Raises:
            ConfigurationError: it has another shape than `(request, next)`, or claims to decide.
        """
        if not isinstance(guard, Chain):
            guard = _shaped(guard)
        super().add(guard, **place)
        for member in self._members:
            _check(member)
        if sum(member.is_decide for member in self._members) > 1:
            raise ConfigurationError("each send is decided once; remove the second GovernOutbound")
        return self

    def __or__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(self, other)

    def __ror__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(other, self)

    @property
    def governed(self) -> bool:
        """A `GovernOutbound` is among the members."""
        return any(member.is_decide for member in self._members)


def flat(members: Any) -> list[Any]:
    """Return members out of a member, a chain, None, or lists of these."""
    if members is None:
        return []
    if isinstance(members, (list, tuple)):
        return [one for member in members for one in flat(member)]
    return [members]


def _shaped(member: Any) -> Any:
    call = member if inspect.isfunction(member) or inspect.ismethod(member) else getattr(member, "__call__", None)  # noqa: B004
    if inspect.isclass(member) or call is None:
        raise ConfigurationError(f"{_named(member)} is no member of a chain; give an instance or a function")
    return member if inspect.iscoroutinefunction(call) else SyncFunction(member)


def _named(member: Any) -> str:
    return getattr(member, "__name__", None) or type(member).__name__


def _check(member: Member) -> None:
    from chio_core.outbound.govern import GovernOutbound

    if not member.wraps:
        raise ConfigurationError(f"{member.name} must take (request, next); it stands around a network call")
    if member.is_decide and not isinstance(member.guard, GovernOutbound):
        raise ConfigurationError(f"{member.name} claims to give the decision; only GovernOutbound does")
