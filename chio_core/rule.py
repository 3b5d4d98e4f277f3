"""CapabilityRule: a capability that a view asks for, and how views carry their rules.

A decorator leaves its rules on the view in the attribute `chio_rules`. `functools.wraps` copies it outwards, so
the outermost function still has it, and an adapter finds it before the view runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from chio_core.canonical import canonical_json
from chio_core.errors import ConfigurationError
from chio_core.models.capability import Operation
from chio_core.request import Requirement

RULES: Final = "chio_rules"
"""Attribute of a view with the tuple of its rules, outermost first."""

Arguments = Mapping[str, Any] | Callable[[Mapping[str, Any]], Any] | None
"""JSON arguments for the grant's constraints, or a function that makes them from the path parameters."""


class CapabilityRule:
    """What a view asks for.

    Args:
        server: `server_id` that the token must grant.
        tool: `tool_name` that it must grant. Leave both out for any valid capability.
        operations: operations that one grant must contain.
        arguments: JSON that the grant's constraints are held against, or a function from the route's path
            parameters to it.

    Raises:
        ConfigurationError: only one of server and tool, an unknown operation, or arguments that are no JSON.
    """

    def __init__(
        self,
        server: str | None = None,
        tool: str | None = None,
        *,
        operations: Sequence[Operation] = ("invoke",),
        arguments: Arguments = None,
    ) -> None:
        if (server is None) != (tool is None) or server == "" or tool == "":
            raise ConfigurationError("a required capability needs both server and tool, or neither")
        if isinstance(operations, str) or not operations or not set(operations) <= set(get_args(Operation)):
            known = ", ".join(get_args(Operation))
            raise ConfigurationError(f"operations of a required capability is a list of some of: {known}")
        self.server = server
        self.tool = tool
        self.operations = tuple(operations)
        self.arguments = arguments
        self._key = (server, tool, self.operations, arguments if callable(arguments) else canonical_json(arguments))

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return the requirement for one request, given its path parameters."""
        arguments = self.arguments(path_params) if callable(self.arguments) else self.arguments
        return Requirement(self.server, self.tool, self.operations, arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CapabilityRule) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r}, {self.tool!r})"


def rules_of(view: Any) -> tuple[CapabilityRule, ...]:
    """Return the rules that a view carries; none for anything that is no view."""
    found = getattr(view, RULES, ())
    return found if isinstance(found, tuple) else ()


def requirement_of(rules: Iterable[CapabilityRule], path_params: Mapping[str, Any]) -> Requirement | None:
    """Return what to ask the sidecar for: the first rule that names a tool, else the first rule.

    The wire carries one tool; further rules of the same view are asked for when their decorators run.
    """
    wanted = [rule.chio_requirement(path_params) for rule in rules]
    return next((one for one in wanted if one.server is not None), wanted[0] if wanted else None)
