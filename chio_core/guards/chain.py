"""Chain: the ordered guards around the decision.

A guard has one of two shapes, distinguished by the number of its arguments:

* `async def guard(request) -> Response | Denial | None`: inspect the request, refuse it or return None to continue;
* `async def middleware(request, next) -> AnyResponse`: wrap; `await next(request)` runs the rest.

Guards run in the order `(priority, registration)`, lowest first and outermost. `provides` and `requires` are names: a
guard that requires `decision` must be inside the member that provides it; `uses` is the same for names that may be
missing altogether. A guard that never waits for I/O may set `waits = False`: a synchronous framework then needs no
event loop for it. The chain is frozen when it is given to an application; an impossible order is a `ConfigurationError`
that names both members and the remedy.

The member `decide` has priority 0, provides `decision`, and cannot be removed, disabled, filtered by method or added
twice. A guard below 0 refuses without the sidecar, in microseconds and without a receipt; a guard above 0 runs only
for allowed requests.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chio_core.concurrency.loop_thread import SLOW_MS
from chio_core.errors import ConfigurationError
from chio_core.models.receipt import GuardEvidence
from chio_core.refusals.response import AnyResponse
from chio_core.request import GuardRequest

Next = Callable[[GuardRequest], Awaitable[AnyResponse]]
"""Runs the rest of the chain and the handler."""

Guard = Callable[..., Awaitable[Any]]
"""A guard of either shape."""

DECISION = "decision"
DECIDE_PRIORITY = 0
DEFAULT_PRIORITY = 10
SLOW_GUARD_MS = SLOW_MS


class DecisionMember:
    """Base of every framework's `decide`: at priority 0, and always enabled."""

    name = "decide"
    priority = DECIDE_PRIORITY
    provides = frozenset({DECISION})

    @property
    def enabled(self) -> bool:
        """Always True."""
        return True

    @enabled.setter
    def enabled(self, value: bool) -> None:
        raise ConfigurationError("decide cannot be switched off; exclude paths or methods in the settings instead")


class DecisionPlace(DecisionMember):
    """The place of the decision in a chain that is only checked."""

    async def __call__(self, request: GuardRequest) -> AnyResponse | None:
        """Never called."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Member:
    """One guard and its place in the chain.

    Attributes:
        wraps: its shape is `(request, next)`.
        provides, requires, uses: names by which the order is checked.
        methods: methods for which it runs, in capitals; None for all.
        is_decide: this member calls the sidecar.
        plain: its shape is `(request)`, and it runs for all methods.
        switches: empty if the guard cannot have an attribute `enabled`: a function without attributes.
        passed: its evidence if it lets a request continue.
        disabled: its evidence while it is disabled.
    """

    name: str
    guard: Guard
    priority: int
    wraps: bool
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    methods: frozenset[str] | None = None
    is_decide: bool = field(init=False)
    plain: bool = field(init=False, repr=False)
    switches: Collection[str] = field(init=False, repr=False, compare=False)
    passed: GuardEvidence = field(init=False, repr=False)
    disabled: GuardEvidence = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Computed once: they are read for every request.
        name = f"local/{self.name}"
        object.__setattr__(self, "is_decide", DECISION in self.provides)
        object.__setattr__(self, "plain", not (self.wraps or self.is_decide or self.methods is not None))
        switches = vars(self.guard) if inspect.isfunction(self.guard) else ("enabled",)
        object.__setattr__(self, "switches", switches)
        object.__setattr__(self, "passed", GuardEvidence(guard_name=name, verdict=True))
        object.__setattr__(self, "disabled", GuardEvidence(guard_name=name, verdict=True, details="disabled"))

    @property
    def enabled(self) -> bool:
        """The guard's `enabled`, which may change while requests are served; always True for `decide`."""
        return self.is_decide or bool(getattr(self.guard, "enabled", True))


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `check()`: severity is `INFO`, `WARN` or `ERROR`."""

    severity: str
    category: str
    message: str


class Chain:
    """An ordered set of guards; `a | b` and `Chain(a, b)` are the same.

    Args:
        guards: guards or other chains, outermost first among those of equal priority.
        slow_guard_ms: a guard that blocks the event loop for longer without a pause is named in a warning
            (milliseconds); if left out, the value of the first chain among `guards`, else 50.
    """

    def __init__(self, *guards: Guard | Chain, slow_guard_ms: float | None = None) -> None:
        self._members: list[Member] = []
        self._parts: list[Chain] = []
        self._frozen: tuple[Member, ...] | None = None
        self._sealed = False
        for guard in guards:
            self.add(guard)
        inherited = self._parts[0].slow_guard_ms if self._parts else SLOW_GUARD_MS
        self.slow_guard_ms: float = slow_guard_ms if slow_guard_ms is not None else inherited

    def add(
        self,
        guard: Guard | Chain,
        *,
        priority: int | None = None,
        name: str | None = None,
        provides: Collection[str] | None = None,
        requires: Collection[str] | None = None,
        uses: Collection[str] | None = None,
        methods: Collection[str] | None = None,
    ) -> Chain:
        """Add a guard. An argument that is left out is read from the guard's attribute of the same name.

        Args:
            priority: lower runs earlier; `decide` has 0, the default is 10.
            provides: names that the guard provides for inner members.
            requires: names that an outer member must provide.
            uses: names that an outer member must provide if any member provides them.
            methods: run for these methods only.

        Raises:
            ConfigurationError: the chain is frozen, the guard is not an `async def`, or has another shape.
        """
        if self._sealed:
            raise ConfigurationError(f"the chain is frozen: an application has it; add {_name(guard)} before that")
        if isinstance(guard, Chain):
            self._parts.append(guard)
            self._members.extend(guard._members)
            return self
        filtered = methods if methods is not None else getattr(guard, "methods", None)
        member = Member(
            name=name or _name(guard),
            guard=guard,
            priority=priority if priority is not None else getattr(guard, "priority", DEFAULT_PRIORITY),
            wraps=_takes_next(guard),
            provides=_names(provides, guard, "provides"),
            requires=_names(requires, guard, "requires"),
            uses=_names(uses, guard, "uses"),
            methods=frozenset(map(str.upper, _names(filtered, guard, "methods"))) if filtered is not None else None,
        )
        if member.is_decide:
            if member.priority != DECIDE_PRIORITY or member.methods is not None:
                raise ConfigurationError("decide stays at priority 0 for all methods; move the other guards instead")
            if any(other.is_decide for other in self._members):
                raise ConfigurationError("a chain has one decide; remove the second")
        self._members.append(member)
        return self

    def __or__(self, other: Guard | Chain) -> Chain:
        return Chain(self, other)

    def __ror__(self, other: Guard) -> Chain:
        return Chain(other, self)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.order())

    def __len__(self) -> int:
        return len(self._members)

    def order(self) -> tuple[Member, ...]:
        """Return the members in run order, outermost first."""
        return tuple(sorted(self._members, key=lambda member: member.priority))

    def freeze(self) -> tuple[Member, ...]:
        """Fix the order and return it.

        Raises:
            ConfigurationError: a member requires a name that no outer member provides.
        """
        if self._frozen is None:
            order = self.order()
            _check_requirements(order)
            self._frozen = order
            self._seal()
        return self._frozen

    def _seal(self) -> None:
        # The chains inside it are frozen too: a guard added to one of them later would never run.
        self._sealed = True
        for part in self._parts:
            part._seal()

    async def aclose(self) -> None:
        """Close the guards that have an `aclose`, innermost first."""
        for member in reversed(self.order()):
            close = getattr(member.guard, "aclose", None)
            if close is not None:
                await close()

    def check(self) -> list[Finding]:
        """Return one finding that lists the members in order, and one for each fault; nothing without guards."""
        order = self.order()
        if all(member.is_decide for member in order):
            return []
        listed = []
        for member in order:
            only = f", only {'/'.join(sorted(member.methods))}" if member.methods is not None else ""
            listed.append(f"{member.name} ({member.priority}{only}{'' if member.enabled else ', disabled'})")
        found = [Finding("INFO", "middleware_chain", " → ".join(listed))]
        try:
            _check_requirements(order)
        except ConfigurationError as exc:
            found.append(Finding("ERROR", "middleware_order", exc.message))
        outer = list(itertools.takewhile(lambda member: not member.is_decide, order))
        for member in outer if len(outer) < len(order) else ():
            if member.priority == DECIDE_PRIORITY:
                text = (
                    f"{member.name} has priority 0, as decide, and runs before the decision: for requests that may be"
                    f" refused, and without a receipt; write priority={DEFAULT_PRIORITY} to run it for allowed requests"
                    " only, or a number below 0 to keep it before the decision"
                )
                found.append(Finding("WARN", "priority_of_decide", text))
        for member in order:
            inner = getattr(member.guard, "check", None)
            if callable(inner) and not isinstance(member.guard, Chain):
                found.extend(inner())
        return found


def around(guards: Chain | Sequence[Guard | Chain], decide: Guard) -> Chain:
    """Return the chain of these guards and the decision.

    Raises:
        ConfigurationError: not a list of guards.
    """
    return Chain(*guard_list(guards), decide)


def checked_guards(guards: Any) -> list[Any]:
    """Return the guards of an application as a list. From now on they are frozen.

    A framework may make its middleware at the first request only: this is for the moment when they are given.

    Raises:
        ConfigurationError: not a list of guards, or they cannot work in this order.
    """
    found = guard_list(guards)
    around(found, DecisionPlace()).freeze()
    return found


def guard_list(guards: Any, option: str = "guards") -> list[Any]:
    """Return the value of an option for guards as a list; a `Chain` becomes a list of one.

    Args:
        option: its name.

    Raises:
        ConfigurationError: the value is one guard, or a text.
    """
    if isinstance(guards, Chain):
        return [guards]
    if isinstance(guards, str):
        raise ConfigurationError(f"{option} takes a list, not one text")
    try:
        return list(guards)
    except TypeError:
        raise ConfigurationError(f"{option} takes a list: write {option}=[{_name(guards)}]") from None


def _name(guard: Any) -> str:
    if isinstance(guard, functools.partial):
        return _name(guard.func)
    own = getattr(guard, "name", None) or getattr(guard, "__name__", None)
    return own if isinstance(own, str) else type(guard).__name__


def _names(given: Collection[str] | None, guard: Any, attribute: str) -> frozenset[str]:
    names = given if given is not None else getattr(guard, attribute, ())
    if isinstance(names, str):
        raise ConfigurationError(f"{attribute} of {_name(guard)} takes a list of names, not one text")
    return frozenset(names)


def _takes_next(guard: Guard) -> bool:
    call = guard if inspect.isfunction(guard) or inspect.ismethod(guard) else getattr(guard, "__call__", None)  # noqa: B004
    if inspect.isclass(guard) or not callable(guard):
        raise ConfigurationError(f"{_name(guard)} is no guard; give an instance or a function")
    if not inspect.iscoroutinefunction(call) and not inspect.iscoroutinefunction(guard):
        raise ConfigurationError(f"guard {_name(guard)} must be `async def`: a blocking guard stops every request")
    positional = [
        parameter
        for parameter in inspect.signature(guard).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
    ]
    if len(positional) not in (1, 2):
        raise ConfigurationError(f"guard {_name(guard)} must take (request) or (request, next)")
    return len(positional) == 2


def _check_requirements(order: tuple[Member, ...]) -> None:
    given: dict[str, Member] = {}
    providers = {name: member for member in reversed(order) for name in member.provides}
    for member in order:
        for need in sorted((member.requires | member.uses) - given.keys()):
            if need not in providers:
                if need in member.requires:
                    raise ConfigurationError(
                        f"{member.name} requires {need!r}, which no member provides; add one that does"
                    )
                continue
            inner = providers[need]
            raise ConfigurationError(
                f"{member.name} (priority {member.priority}) requires {need!r}, which {inner.name} (priority "
                f"{inner.priority}) provides for inner members only; "
                f"give {member.name} a priority above {inner.priority}"
            )
        given.update(dict.fromkeys(member.provides, member))
