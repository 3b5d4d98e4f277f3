"""Subset rules: what may be handed on (wire protocol, section 5.6).

The comparison is textual and therefore strict: a child must repeat every constraint of its parent verbatim,
even where another value would be narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from chio_core.models.capability import ChioScope, MonetaryAmount, PromptGrant, ResourceGrant, ToolGrant

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
