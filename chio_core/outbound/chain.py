"""MiddlewareChain: `chio_core.guards.chain.Chain` for members of a transport.

The same order, the same rules, the same `check()`; but every member wraps, it may be a synchronous one, and only
a `GovernOutbound` gives the decision.
"""

from __future__ import annotations

import inspect
from typing import Any

from chio_core.guards.chain import Chain, Member
from chio_core.errors import ConfigurationError
from chio_core.outbound.member import SyncFunction


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
