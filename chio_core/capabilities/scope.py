"""Whether a scope allows a tool call (wire protocol, section 5.5).

1. The grant's server is `*` or the call's; the same for the tool. There are no other wildcards here.
2. The grant names the operation.
3. All of its constraints hold, looked at in order.

Every grant is looked at, also after one has matched: one pattern that does not compile refuses the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chio_core.capabilities.arguments import Arguments
from chio_core.capabilities.constraints import Call, holds
from chio_core.capabilities.errors import ConstraintError
from chio_core.models.capability import CapabilityToken, ChioScope, Operation, ToolGrant
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
