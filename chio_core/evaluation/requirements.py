"""What a route requires: its sources, how they become one requirement, and how views carry them.

A decorator stores its rules on the view in the attribute `chio_rules`. `functools.wraps` copies it to each outer
function, so an adapter finds it before the view runs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self, TypeVar, get_args, overload

from chio_core.canonical import canonical_json
from chio_core.concurrency.loop_thread import timed
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.evaluation.amounts import Facts
from chio_core.models.capability import Operation
from chio_core.models.openapi import CAPABILITY, Sensitivity, stated
from chio_core.names import VIEW_RULES
from chio_core.request import Requirement

Arguments = Mapping[str, Any] | Callable[[Mapping[str, Any]], Any] | None
"""JSON arguments for the grant's constraints, or a function that makes them from the path parameters.

A decorator gives it the arguments of its view by name, which are the path parameters if the framework calls the view.
"""

View = TypeVar("View", bound=Callable[..., Any])
Rule = TypeVar("Rule", bound="CapabilityRule")


class RequirementSource:
    """Base of what a route declares: a capability, an approval, a budget, or observe mode.

    A dependency, a decorator or a permission class inherits it. Pipelines collect the sources of the route that will
    run and make one `Requirement` of them.
    """

    chio_observes: ClassVar[bool] = False
    """True if the route's refusals are only recorded."""

    @property
    def chio_reads_body(self) -> bool:
        """True if the requirement depends on the request's body."""
        return False

    @property
    def chio_decides(self) -> bool:
        """True if a decision has to cover this; False if it only states something in the OpenAPI document."""
        return True

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return the requirement of a request of which only the path parameters are known."""
        raise NotImplementedError

    def chio_requirement_for(self, facts: Facts) -> Requirement:
        """Return the requirement of one request.

        Raises:
            RequestRefused: the request does not clearly state what has to be evaluated.
        """
        return self.chio_requirement(facts.path_params)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this source in an OpenAPI operation."""
        return {}


class ViewRule(RequirementSource):
    """Base of what Django and Flask write above a view: `@RequireCapability("payments", "transfer")`."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the decorator.

        Raises:
            TypeError: it was written without its parentheses, so that it got the view itself.
        """
        if args and callable(args[0]):
            raise TypeError(f"@{cls.__name__} lacks its parentheses and arguments: write @{cls.__name__}(…)")
        return super().__new__(cls)


class CapabilityRule(RequirementSource):
    """A capability that a view requires.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant. Leave both out for any valid capability.
        operations: operations that one grant must contain, besides `invoke`.
        arguments: JSON that the grant's constraints are checked with, or a function from the route's path
            parameters to it.
        sensitivity: `public`, `internal`, `sensitive` or `restricted`; goes into the OpenAPI document.
        side_effects: whether the route changes something; goes into the OpenAPI document.

    Raises:
        ConfigurationError: only one of server and tool, an unknown operation, or arguments that are no JSON.
    """

    title: ClassVar[str] = "RequireCapability"
    """How errors name it."""

    def __init__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
        sensitivity: Sensitivity | None = None,
        side_effects: bool | None = None,
    ) -> None:
        if (server is None) != (tool is None) or server == "" or tool == "":
            raise ConfigurationError(f"{self.title} needs both server and tool, or neither")
        if isinstance(operations, str) or not operations or not set(operations) <= set(get_args(Operation)):
            known = ", ".join(get_args(Operation))
            raise ConfigurationError(f"operations of {self.title} is a list of some of: {known}")
        self.server = server
        self.tool = tool
        self.operations = tuple(operations)
        self.arguments = arguments
        held = arguments if callable(arguments) else canonical_json(arguments)
        self._stated = stated(self.title, sensitivity, side_effects)
        self._key: tuple[Any, ...] = (server, tool, self.operations, held, sensitivity, side_effects)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return the requirement for one request, given its path parameters."""
        arguments = self.arguments
        if callable(arguments):
            arguments = timed("function for arguments", arguments)(path_params)
        return Requirement(self.server, self.tool, self.operations, arguments)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this rule in an OpenAPI operation: `x-chio-capability`, and what is stated."""
        named = {"server": self.server, "tool": self.tool, "operations": list(self.operations)}
        return {CAPABILITY: [named if self.server is not None else {}], **self._stated}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CapabilityRule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r}, {self.tool!r})"


class CapabilityDecorator(Generic[Rule]):
    """The function `require_capability` of Django and Flask.

    Args:
        kind: the rule that it makes.
    """

    def __init__(self, kind: type[Rule]) -> None:
        self._kind = kind

    @overload
    def __call__(self, server: View, /) -> View: ...

    @overload
    def __call__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
    ) -> Rule: ...

    def __call__(
        self,
        server: Any = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
    ) -> Any:
        """Return a decorator for views; `@require_capability` alone requires any valid capability.

        Args:
            server: `server_id` that the token must grant.
            tool: `tool_name` that it must grant.
            operations: operations that one grant must contain, besides `invoke`.
            arguments: JSON that the grant's constraints are checked with, or a function from the arguments
                that the view is called with, by name, to it.

        Raises:
            ConfigurationError: only one of server and tool, or arguments that are no JSON.
        """
        if callable(server):
            rule: Any = self._kind()
            return rule(server)
        return self._kind(server, tool, operations=operations, arguments=arguments)


def rules_of(view: Any) -> tuple[RequirementSource, ...]:
    """Return the rules that a view carries; empty for anything else."""
    found = getattr(view, VIEW_RULES, ())
    return found if isinstance(found, tuple) else ()


def named_arguments(view: Any, args: Sequence[Any], kwargs: Mapping[str, Any], skip: int) -> Mapping[str, Any]:
    """Return the arguments of a call by name. Code of the application may call a view with others than the URL states.

    Args:
        view: the function that is called with `args` and `kwargs`.
        skip: number of leading positional arguments that no URL states: `self`, and the request in Django.
    """
    if len(args) <= skip:
        return kwargs
    parameters = inspect.signature(view).parameters.values()
    names = [one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return {**dict(zip(names[skip:], args[skip:], strict=False)), **kwargs}


def merged(demands: Iterable[Requirement]) -> Requirement | None:
    """Return the requirement of the first evaluation; None if nothing is required.

    The wire carries one tool, one approval and one budget, so the first of each kind counts here; a capability that
    names a tool precedes any capability. The rest is evaluated when its own dependency or decorator runs.
    """
    wanted = [one for one in demands if one.binding or one.observe]
    if len(wanted) <= 1:
        return wanted[0] if wanted else None
    capable = [one for one in wanted if one.capability]
    named = (one for one in capable if one.server is not None)
    return replace(
        next(named, capable[0] if capable else Requirement()),
        approval=next((one.approval for one in wanted if one.approval is not None), None),
        budget=next((one.budget for one in wanted if one.budget is not None), None),
        observe=any(one.observe for one in wanted),
        capability=bool(capable),
    )


def includes(known: Requirement | None, wanted: Requirement) -> bool:
    """Return True if a decision made for `known` also satisfies `wanted`.

    Args:
        known: the requirement of the decision; None if it was about the request alone.
    """
    if known is None:
        return False
    if wanted.approval not in (None, known.approval) or wanted.budget not in (None, known.budget):
        return False
    if not wanted.capability or (wanted.server is None and known.capability):
        return True
    tool = (wanted.server, wanted.tool, wanted.operations)
    if not known.capability or (known.server, known.tool, known.operations) != tool:
        return False
    try:
        # In Python 1 equals True, inside arguments too; in JSON it does not.
        return canonical_json(known.arguments) == canonical_json(wanted.arguments)
    except InvalidDocument:
        return False  # the evaluation reports what is wrong with them


def check_arguments(arguments: Any, route: str) -> None:
    """Make sure that arguments which a function has made are JSON.

    Args:
        route: template of the route that they are for, for the error.

    Raises:
        ConfigurationError: they are not; the text names the type that JSON does not have.
    """
    if arguments is None:
        return
    try:
        canonical_json(arguments)
    except InvalidDocument:
        raise ConfigurationError(
            f"the function for the arguments of the capability that {route} requires returned "
            f"{_alien(arguments) or 'a value'}, which JSON does not have; make a string, a number or an object of it"
        ) from None


def _alien(value: Any) -> str:
    # Values may be secrets; only types are named.
    if isinstance(value, Mapping):
        names = (f"a key of type {type(key).__name__}" for key in value if not isinstance(key, str))
        return next(names, None) or next(filter(None, map(_alien, value.values())), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(_alien, value)), "")
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "text with half of a surrogate pair"
        return ""
    if value is None or isinstance(value, int | float):
        return ""
    return f"a value of type {type(value).__name__}"
