"""Whether a scope allows a tool call (wire protocol, section 5.5).

1. The grant's server is `*` or the call's; the same for the tool. There are no other wildcards here.
2. The grant names the operation.
3. All of its constraints hold, looked at in order.

Every grant is looked at, also after one has matched: one pattern that does not compile refuses the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from chio_core.capabilities.constraints import Arguments, Call, holds
from chio_core.capabilities.tokens import ConstraintError
from chio_core.models.capability import (
    CapabilityToken,
    ChioScope,
    MonetaryAmount,
    Operation,
    PromptGrant,
    ResourceGrant,
    ToolGrant,
)
from chio_core.models.request import ModelMetadata

Scope = CapabilityToken | ChioScope | Sequence[ToolGrant]
"""What can be asked: a token, its scope, or tool grants alone."""


def match_grant(
    scope: Scope,
    tool_server: str,
    tool_name: str,
    arguments: Any = None,
    *,
    operation: Operation = "invoke",
    model_metadata: ModelMetadata | Mapping[str, Any] | None = None,
) -> int | None:
    """Return the index of the first tool grant that allows a call, or None.

    Args:
        scope: a token, a scope, or its tool grants.
        tool_server: id of the server.
        tool_name: name of the tool.
        arguments: what the tool is given, as JSON.
        operation: what is to be done with the tool.
        model_metadata: the model that calls.

    Raises:
        ConstraintError: R6x; the call must be refused.
        InvalidDocument: the arguments are not JSON.
    """
    call: Call | None = None
    found: int | None = None
    for index, grant in enumerate(_grants(scope)):
        if not _fits(grant, tool_server, tool_name, operation):
            continue
        if call is None and grant.constraints:
            call = Call(Arguments(arguments), _model(model_metadata))
        matches = call is None or all(holds(constraint, call) for constraint in grant.constraints)
        if matches and found is None:
            found = index
    return found


def scope_allows(
    scope: Scope,
    tool_server: str,
    tool_name: str,
    arguments: Any = None,
    *,
    operation: Operation = "invoke",
    model_metadata: ModelMetadata | Mapping[str, Any] | None = None,
) -> bool:
    """Tell whether a scope allows a tool call; arguments as for `match_grant`.

    A scope that cannot be evaluated allows nothing.

    Raises:
        InvalidDocument: the arguments are not JSON.
    """
    try:
        found = match_grant(
            scope, tool_server, tool_name, arguments, operation=operation, model_metadata=model_metadata
        )
    except ConstraintError:
        return False
    return found is not None


def _grants(scope: Scope) -> Sequence[ToolGrant]:
    if isinstance(scope, CapabilityToken):
        return scope.scope.grants
    return scope.grants if isinstance(scope, ChioScope) else scope


def _fits(grant: ToolGrant, tool_server: str, tool_name: str, operation: str) -> bool:
    return (
        grant.server_id in {"*", tool_server} and grant.tool_name in {"*", tool_name} and operation in grant.operations
    )


def _model(metadata: ModelMetadata | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return metadata.to_wire() if isinstance(metadata, ModelMetadata) else metadata


NOT_A_SUBSET = "attenuation violation: child scope is not a subset of parent scope"
"""The protocol's text for a narrowing that would widen."""

Grant = TypeVar("Grant", ToolGrant, ResourceGrant, PromptGrant)
"""One kind of grant."""


def pattern_covers(parent: str, child: str) -> bool:
    """Tell whether a pattern of resources or prompts covers another one.

    Only a `*` at the end of `parent` stands for anything; the text of `child` is compared as it is.
    """
    return parent == child or (parent.endswith("*") and child.startswith(parent[:-1]))


def is_subset(
    child: ToolGrant | ResourceGrant | PromptGrant | ChioScope,
    parent: ToolGrant | ResourceGrant | PromptGrant | ChioScope,
) -> bool:
    """Tell whether `child` allows nothing that `parent` does not allow. Different kinds are never subsets."""
    if isinstance(child, ChioScope) and isinstance(parent, ChioScope):
        return _scope(child, parent)
    if isinstance(child, ToolGrant) and isinstance(parent, ToolGrant):
        return _tool(child, parent)
    if isinstance(child, ResourceGrant) and isinstance(parent, ResourceGrant):
        return pattern_covers(parent.uri_pattern, child.uri_pattern) and _operations(child, parent)
    if isinstance(child, PromptGrant) and isinstance(parent, PromptGrant):
        return pattern_covers(parent.prompt_name, child.prompt_name) and _operations(child, parent)
    return False


def _scope(child: ChioScope, parent: ChioScope) -> bool:
    return (
        _each_in_some(child.grants, parent.grants)
        and _each_in_some(child.resource_grants, parent.resource_grants)
        and _each_in_some(child.prompt_grants, parent.prompt_grants)
    )


def _each_in_some(children: Sequence[Grant], parents: Sequence[Grant]) -> bool:
    return all(any(is_subset(child, parent) for parent in parents) for child in children)


def _tool(child: ToolGrant, parent: ToolGrant) -> bool:
    return (
        parent.server_id in {"*", child.server_id}
        and parent.tool_name in {"*", child.tool_name}
        and _operations(child, parent)
        and _count(child.max_invocations, parent.max_invocations)
        and all(any(own.same_as(wanted) for own in child.constraints) for wanted in parent.constraints)
        and _amount(child.max_cost_per_invocation, parent.max_cost_per_invocation)
        and _amount(child.max_total_cost, parent.max_total_cost)
        and (child.dpop_required is True or parent.dpop_required is not True)
    )


def _operations(
    child: ToolGrant | ResourceGrant | PromptGrant, parent: ToolGrant | ResourceGrant | PromptGrant
) -> bool:
    return set(child.operations) <= set(parent.operations)


def _count(child: int | None, parent: int | None) -> bool:
    return parent is None or (child is not None and child <= parent)


def _amount(child: MonetaryAmount | None, parent: MonetaryAmount | None) -> bool:
    if parent is None:
        return True
    return child is not None and child.currency == parent.currency and child.units <= parent.units
