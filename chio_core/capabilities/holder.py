"""Bind a capability to the caller that it is issued to, and tell whether another caller presents it.

The protocol compares the caller of a request with nothing in the token (wire protocol, sections 1.6 and 4). A bound
capability states its holder (`CallerIdentity.holder`) in each tool grant, as the constraint
`{"type": "custom", "value": ["chio_holder", …]}`. It is signed like the rest, each issuer of the protocol issues it,
and a delegation keeps it: a child must repeat every constraint of its parent (section 5.6).

Here the constraint is about the caller and never about arguments, which a client may choose. A sidecar that does not
know it compares an argument of that name, which the middleware adds (`with_holder`), and ignores it where no tool is
named. So the middleware compares too, in `chio_core.evaluation.exchange.prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chio_core.capabilities.constraints import HOLDER
from chio_core.models.capability import CapabilityToken
from chio_core.models.request import CallerIdentity


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
