"""CapabilityRule: a capability that a view asks for; how several demands become one, and how views carry them.

A decorator leaves its rules on the view in the attribute `chio_rules`. `functools.wraps` copies it outwards, so
the outermost function still has it, and an adapter finds it before the view runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, get_args

from chio_core.canonical import canonical_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.models.capability import Operation
from chio_core.models.openapi import CAPABILITY
from chio_core.names import VIEW_RULES
from chio_core.request import Requirement

Arguments = Mapping[str, Any] | Callable[[Mapping[str, Any]], Any] | None
"""JSON arguments for the grant's constraints, or a function that makes them from the path parameters."""


class CapabilityRule:
    """A capability that a view asks for.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant. Leave both out for any valid capability.
        operations: operations that one grant must contain, besides `invoke`.
        arguments: JSON that the grant's constraints are held against, or a function from the route's path
            parameters to it.

    Raises:
        ConfigurationError: only one of server and tool, an unknown operation, or arguments that are no JSON.
    """

    title: ClassVar[str] = "a required capability"
    """How errors name it."""

    def __init__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
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
        self._key: tuple[Any, ...] = (server, tool, self.operations, held)

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return the requirement for one request, given its path parameters."""
        arguments = self.arguments(path_params) if callable(self.arguments) else self.arguments
        return Requirement(self.server, self.tool, self.operations, arguments)

    def chio_extensions(self) -> dict[str, Any]:
        """Return the members that state this rule in an OpenAPI operation: `x-chio-capability`."""
        if self.server is None:
            return {CAPABILITY: [{}]}
        wanted = {"server": self.server, "tool": self.tool, "operations": list(self.operations)}
        return {CAPABILITY: [wanted]}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CapabilityRule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r}, {self.tool!r})"


def rules_of(view: Any) -> tuple[CapabilityRule, ...]:
    """Return the rules that a view carries; none for anything that is no view."""
    found = getattr(view, VIEW_RULES, ())
    return found if isinstance(found, tuple) else ()


def requirement_of(rules: Iterable[CapabilityRule], path_params: Mapping[str, Any]) -> Requirement | None:
    """Return what to ask the sidecar for about a view with these rules; see `merged`."""
    return merged(rule.chio_requirement(path_params) for rule in rules)


def merged(demands: Iterable[Requirement]) -> Requirement | None:
    """Return the one requirement that stands in the one evaluation; None where nothing is asked for.

    The wire carries one tool, one approval and one budget, so the first of each kind counts here; a capability that
    names a tool goes before any capability. What is left out is asked for when its own dependency or decorator runs.
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
    """Tell whether a decision that was made for one requirement was made for another one too.

    Args:
        known: what the decision was made for; None: for nothing but the request itself.
        wanted: what has to be part of that.
    """
    if known is None:
        return False
    if wanted.approval not in (None, known.approval) or wanted.budget not in (None, known.budget):
        return False
    if not wanted.capability or (wanted.server is None and known.capability):
        return True
    if not known.capability or _tool(known) != _tool(wanted):
        return False
    try:
        # Python calls 1 and True equal, also inside of arguments; JSON does not.
        return canonical_json(known.arguments) == canonical_json(wanted.arguments)
    except InvalidDocument:
        return False  # whoever asks about these is told what is wrong with them


def _tool(requirement: Requirement) -> tuple[Any, ...]:
    return requirement.server, requirement.tool, requirement.operations


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
    if value is None or isinstance(value, str | int | float):
        return "" if not isinstance(value, str) else _lone_surrogate(value)
    return f"a value of type {type(value).__name__}"


def _lone_surrogate(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "text with half of a surrogate pair"
    return ""
