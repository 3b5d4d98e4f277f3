"""Decide whether a scope allows a tool call and this caller, and whether one scope is a subset of another.

A tool grant allows a call if all of these hold (wire protocol, section 5.5):

1. The grant's server is `*` or the call's; the same for the tool. There are no other wildcards here.
2. The grant contains the operation.
3. All of its constraints hold, checked in order.

Every grant is checked, also after one has matched: one pattern that does not compile refuses the call.

What else a grant restricts (uses, costs, proof of possession) is not decided here, see
`chio_core.capabilities.restrictions`.

The protocol compares the caller of a request with nothing in the token (wire protocol, sections 1.6 and 4). A bound
capability states its holder (`CallerIdentity.holder`) in each tool grant, as the constraint
`{"type": "custom", "value": ["chio_holder", …]}`. It is signed like the rest, each issuer of the protocol issues it,
and a delegation keeps it: a child must repeat every constraint of its parent (section 5.6).

Here the constraint is about the caller and never about arguments, which a client may choose. A sidecar that does not
know it compares an argument of that name, which the middleware adds (`with_holder`), and ignores it where no tool is
named. So the middleware compares too, in `chio_core.evaluation.exchange.prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chio_core.capabilities.constraints import HOLDER, Arguments, Call, holds
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
from chio_core.models.request import CallerIdentity, ModelMetadata

Scope = CapabilityToken | ChioScope | Sequence[ToolGrant]
"""A token, its scope, or tool grants alone."""

_Grant = ToolGrant | ResourceGrant | PromptGrant


def match_grant(
    scope: Scope,
    tool_server: str,
    tool_name: str,
    arguments: Any = None,
    *,
    operation: Operation = "invoke",
    model_metadata: ModelMetadata | Mapping[str, Any] | None = None,
    holder: str | None = None,
) -> int | None:
    """Return the index of the first tool grant that allows a call, or None; arguments as of `matching_grants`.

    A grant with members that are not known allows nothing.
    """
    found = matching_grants(
        scope, tool_server, tool_name, arguments, operation=operation, model_metadata=model_metadata, holder=holder
    )
    grants = scope.scope.grants if isinstance(scope, CapabilityToken) else scope
    listed = grants.grants if isinstance(grants, ChioScope) else grants
    return next((index for index in found if not listed[index].has_unknown_members()), None)


def matching_grants(
    scope: Scope,
    tool_server: str,
    tool_name: str,
    arguments: Any = None,
    *,
    operation: Operation = "invoke",
    model_metadata: ModelMetadata | Mapping[str, Any] | None = None,
    holder: str | None = None,
) -> list[int]:
    """Return the indexes of the tool grants that allow a call.

    Args:
        scope: the grants.
        tool_server: id of the server.
        tool_name: name of the tool.
        arguments: arguments of the tool, as a JSON value.
        operation: the operation on the tool.
        model_metadata: the calling model; None if it is unknown.
        holder: `CallerIdentity.holder` of the caller; None: no grant that is bound to a holder allows the call.

    Raises:
        ConstraintError: R6x; the call must be refused.
        InvalidDocument: the arguments are not JSON.
    """
    if isinstance(scope, CapabilityToken):
        scope = scope.scope
    call: Call | None = None
    found = []
    for index, grant in enumerate(scope.grants if isinstance(scope, ChioScope) else scope):
        if grant.server_id not in {"*", tool_server} or grant.tool_name not in {"*", tool_name}:
            continue
        if operation not in grant.operations:
            continue
        # Walk the arguments once, and only if a constraint needs them.
        if call is None and grant.constraints:
            model = model_metadata.to_wire() if isinstance(model_metadata, ModelMetadata) else model_metadata
            call = Call(Arguments(arguments), model, holder)
        if call is None or all(holds(constraint, call) for constraint in grant.constraints):
            found.append(index)
    return found


def scope_allows(
    scope: Scope,
    tool_server: str,
    tool_name: str,
    arguments: Any = None,
    *,
    operation: Operation = "invoke",
    model_metadata: ModelMetadata | Mapping[str, Any] | None = None,
    holder: str | None = None,
) -> bool:
    """Return True if a scope allows a tool call; arguments as of `match_grant`.

    A scope that cannot be evaluated allows nothing.

    Raises:
        InvalidDocument: the arguments are not JSON.
    """
    try:
        found = match_grant(
            scope, tool_server, tool_name, arguments, operation=operation, model_metadata=model_metadata, holder=holder
        )
    except ConstraintError:
        return False
    return found is not None


NOT_A_SUBSET = "attenuation violation: child scope is not a subset of parent scope"
"""The protocol's text for an attenuation that would allow more."""


def pattern_covers(parent: str, child: str) -> bool:
    """Return True if a pattern of resources or prompts covers another one.

    Only a `*` at the end of `parent` is a wildcard; the text of `child` is compared unchanged.
    """
    return parent == child or (parent.endswith("*") and child.startswith(parent[:-1]))


def is_subset(
    child: _Grant | ChioScope,
    parent: _Grant | ChioScope,
) -> bool:
    """Return True if `child` allows nothing that `parent` does not allow. Different kinds are never subsets."""
    if isinstance(child, ChioScope) and isinstance(parent, ChioScope):
        if any(value is not None for value in (parent.model_extra or {}).values()):
            return False
        kinds: list[tuple[Sequence[_Grant], Sequence[_Grant]]] = [
            (child.grants, parent.grants),
            (child.resource_grants, parent.resource_grants),
            (child.prompt_grants, parent.prompt_grants),
        ]
        return all(any(is_subset(one, other) for other in parents) for children, parents in kinds for one in children)
    if isinstance(child, ChioScope) or isinstance(parent, ChioScope):
        return False
    # A restriction that is not known would be lost in the child.
    if parent.has_unknown_members() or not set(child.operations) <= set(parent.operations):
        return False
    if isinstance(child, ToolGrant) and isinstance(parent, ToolGrant):
        count, most = child.max_invocations, parent.max_invocations
        return (
            parent.server_id in {"*", child.server_id}
            and parent.tool_name in {"*", child.tool_name}
            and (most is None or (count is not None and count <= most))
            and all(any(own.same_as(wanted) for own in child.constraints) for wanted in parent.constraints)
            and amount_within(child.max_cost_per_invocation, parent.max_cost_per_invocation)
            and amount_within(child.max_total_cost, parent.max_total_cost)
            and (child.dpop_required is True or parent.dpop_required is not True)
        )
    if isinstance(child, ResourceGrant) and isinstance(parent, ResourceGrant):
        return pattern_covers(parent.uri_pattern, child.uri_pattern)
    if isinstance(child, PromptGrant) and isinstance(parent, PromptGrant):
        return pattern_covers(parent.prompt_name, child.prompt_name)
    return False


def amount_within(child: MonetaryAmount | None, parent: MonetaryAmount | None) -> bool:
    """Return True if a limit of cost allows no more than another one; None is no limit."""
    if parent is None:
        return True
    return child is not None and child.currency == parent.currency and child.units <= parent.units


def bound(grant: Mapping[str, Any], holder: str) -> dict[str, Any]:
    """Return a tool grant, as a JSON object, that only `holder` (`CallerIdentity.holder`) may use."""
    stated = [one for one in grant.get("constraints", ()) if not _is_about_holder(one["type"], one.get("value"))]
    return {**grant, "constraints": [*stated, {"type": "custom", "value": [HOLDER, holder]}]}


def holders_of(token: CapabilityToken) -> frozenset[str]:
    """Return the holders that the grants of a token state; empty for a token that anyone may present."""
    return frozenset(
        constraint.value[1]
        for grant in token.scope.grants
        for constraint in grant.constraints
        if _is_about_holder(constraint.type, constraint.value)
    )


def is_of_another(token: CapabilityToken, caller: CallerIdentity) -> bool:
    """Return True if one grant of a token states a holder other than this caller: then no grant of it counts."""
    holders = holders_of(token)
    return bool(holders and holders - {caller.holder})  # the caller's is a hash, made only where it counts


def with_holder(arguments: Any, holder: str) -> Any:
    """Return the arguments of a tool call with the holder among them; arguments that are no object stay as they are."""
    if arguments is not None and not isinstance(arguments, Mapping):
        return arguments
    return {**(arguments or {}), HOLDER: holder}


def without_holder(arguments: Any, token: CapabilityToken) -> Any:
    """Return what `with_holder` was given for a bound token: no other constraint is checked against the holder."""
    if not isinstance(arguments, Mapping) or HOLDER not in arguments or not holders_of(token):
        return arguments
    return {name: value for name, value in arguments.items() if name != HOLDER} or None


def _is_about_holder(type_: str, value: Any) -> bool:
    return type_ == "custom" and isinstance(value, list) and value[:1] == [HOLDER]
