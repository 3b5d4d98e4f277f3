"""OutboundMember and Flow, the bases of members of an outgoing chain, and MiddlewareChain, the chain.

A member is `async def member(request, next)` or, for the synchronous transport, `def member(request, next)`. A class
serves both with an asynchronous `__call__` and a synchronous method `sync`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from typing import Any

from chio_core.errors import ConfigurationError
from chio_core.guards.chain import Chain

AsyncNext = Callable[[Any], Awaitable[Any]]
"""Sends a request through the rest of the chain."""

SyncNext = Callable[[Any], Any]


class OutboundMember:
    """A member that states its place in attributes; `a | b` makes a chain.

    Attributes:
        __priority__: lower is outer: first on the way in, last on the way back.
        __methods__: methods that it runs for, in upper or lower case; None for all.
        __enabled__: False skips it, from the next request on.
        __return_type__: for readers; nothing depends on it.
    """

    __return_type__: Any = None
    __priority__: int = 10
    __methods__: Collection[str] | None = None
    __enabled__: bool = True

    @property
    def priority(self) -> int:
        """The `__priority__`."""
        return self.__priority__

    @property
    def methods(self) -> Collection[str] | None:
        """Methods that it runs for; None for all."""
        return self.__methods__

    @property
    def enabled(self) -> bool:
        """The `__enabled__`, read at every request."""
        return self.__enabled__

    def __or__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(self, other)

    def __ror__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(other, self)


class DecidingMember(OutboundMember):
    """Base of `GovernOutbound`, the only member that may provide the decision."""


FlowSteps = Generator[Any, Any, Any]
"""Yields the requests to send, receives their responses, returns the final one."""


class Flow(OutboundMember):
    """A member without I/O, written once for both kinds of transport.

    Subclasses define `flow`; errors of the rest of the chain are raised at the `yield`.
    """

    def flow(self, request: Any) -> FlowSteps:
        """Yield the request to send and return the response; nothing is sent without a `yield`."""
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
                except Exception as error:  # noqa: BLE001 - the flow handles it or raises it again
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
            raise ConfigurationError(f"{self.name} must take (request, next); it wraps a network call")

    async def __call__(self, request: Any, following: AsyncNext) -> Any:
        """Raise; `ChioTransport` refuses this member when it is made."""
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
        ConfigurationError: an argument is not a member.
    """

    def __init__(self, *members: Any) -> None:
        self._given: list[tuple[Any, dict[str, Any]]] = []
        self._watched: list[OutboundMember] = []
        super().__init__(*flat(members))

    def add(self, guard: Any, **place: Any) -> MiddlewareChain:
        """Add a member.

        Args:
            place: `priority`, `name`, `methods` and so on, as `chio_core.guards.chain.Chain.add` takes them.

        Raises:
            ConfigurationError: its shape is not `(request, next)`, or it claims to give the decision.
        """
        if not isinstance(guard, Chain):
            is_function = inspect.isfunction(guard) or inspect.ismethod(guard)
            call = guard if is_function else getattr(guard, "__call__", None)  # noqa: B004
            if inspect.isclass(guard) or call is None:
                name = getattr(guard, "__name__", None) or type(guard).__name__
                raise ConfigurationError(f"{name} is no member of a chain; give an instance or a function")
            guard = guard if inspect.iscoroutinefunction(call) else SyncFunction(guard)
        super().add(guard, **place)
        self._given += guard._given if isinstance(guard, MiddlewareChain) else [(guard, place)]
        self._watched = [one for one, _ in self._given if isinstance(one, OutboundMember)]
        for member in self._members:
            if not member.wraps:
                raise ConfigurationError(f"{member.name} must take (request, next); it wraps a network call")
            if member.is_decide and not isinstance(member.guard, DecidingMember):
                raise ConfigurationError(f"{member.name} claims to give the decision; only GovernOutbound does")
        if sum(member.is_decide for member in self._members) > 1:
            raise ConfigurationError("each send is decided once; remove the second GovernOutbound")
        return self

    def __or__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(self, other)

    def __ror__(self, other: Any) -> MiddlewareChain:
        return MiddlewareChain(other, self)

    def __iter__(self) -> Iterator[Any]:
        """Yield the members as they were given."""
        return (guard for guard, _ in self._given)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} [{', '.join(type(guard).__name__ for guard in self)}]>"

    def given(self) -> list[tuple[Any, dict[str, Any]]]:
        """Return the members as they were given, each with the arguments of `add`."""
        return list(self._given)

    def places(self) -> list[tuple[Any, Any]]:
        """Return the attributes of the members, as they are now, that decide where and when these run."""
        return [(one.__priority__, one.__methods__ and (*one.__methods__,)) for one in self._watched]

    def again(self) -> MiddlewareChain:
        """Return a chain of the same members by their attributes as they are now."""
        chain = MiddlewareChain()
        for guard, place in self._given:
            chain.add(guard, **place)
        return chain

    @property
    def governed(self) -> bool:
        """A `GovernOutbound` is among the members."""
        return any(member.is_decide for member in self._members)


def flat(members: Any) -> list[Any]:
    """Return the members and chains in a member, a chain, None, or nested lists of these."""
    if members is None:
        return []
    if isinstance(members, (list, tuple)):
        return [one for member in members for one in flat(member)]
    return [members]
