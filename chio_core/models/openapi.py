"""The `x-chio-*` members of an OpenAPI operation: their names, and what several sources of them come to.

The members with a meaning on the wire are those of the wire protocol, section 6.3. The others are this project's
own; a sidecar that does not know them ignores them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, get_args

from chio_core.models.request import SAFE_METHODS

APPROVAL_REQUIRED: Final = "x-chio-approval-required"
SIDE_EFFECTS: Final = "x-chio-side-effects"
SENSITIVITY: Final = "x-chio-sensitivity"
BUDGET_LIMIT: Final = "x-chio-budget-limit"
PUBLISH: Final = "x-chio-publish"
CAPABILITY: Final = "x-chio-capability"
APPROVAL: Final = "x-chio-approval"
BUDGET: Final = "x-chio-budget"
OBSERVE: Final = "x-chio-observe"

PREFIX: Final = "x-chio-"

KNOWN: Final = frozenset(
    {APPROVAL_REQUIRED, SIDE_EFFECTS, SENSITIVITY, BUDGET_LIMIT, PUBLISH, CAPABILITY, APPROVAL, BUDGET, OBSERVE}
)
"""All members that mean something; another name that begins with `x-chio-` is a mistake."""

Sensitivity = Literal["public", "internal", "sensitive", "restricted"]
"""How much harm a route can do, least first (wire protocol, section 6.3)."""

LEVELS: Final = get_args(Sensitivity)
"""Values of `x-chio-sensitivity`, least sensitive first."""


CAPABILITY_SCHEME: Final = "ChioCapability"
"""Name of the security scheme in documents of all frameworks."""

CAPABILITY_SCHEME_TEXT: Final = (
    "A capability token, as compact ASCII JSON, that an authority trusted by the sidecar has issued."
)
"""What the scheme says about itself."""


def chio_members(operation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of an operation that are ours to read."""
    return {name: value for name, value in operation.items() if name.startswith(PREFIX)}


def merged(sources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several sources say about one operation; where they differ, the stricter one counts.

    Args:
        sources: members by name, most important first. Of members that cannot be compared the first counts.
    """
    found: dict[str, Any] = {}
    for source in sources:
        # Two budgets are two accounts; the limit that stands beside the second is not one of the first.
        other = BUDGET in source and BUDGET in found
        for name, value in source.items():
            if other and name == BUDGET_LIMIT:
                continue
            if name in found:
                value = _STRICTER.get(name, _first)(found[name], value)
            found[name] = value
    return found


def needs_capability(method: str, members: Mapping[str, Any]) -> bool:
    """Tell whether an operation is refused to callers without a capability.

    Args:
        method: upper case.
        members: its `x-chio-*` members.
    """
    if members.get(APPROVAL_REQUIRED) is True or members.get(CAPABILITY):
        return True
    effects = members.get(SIDE_EFFECTS)
    return effects if isinstance(effects, bool) else method not in SAFE_METHODS


def _first(one: Any, _other: Any) -> Any:
    return one


def _either(one: Any, other: Any) -> Any:
    return one is True or other is True if isinstance(other, bool) else one


def _both(one: Any, other: Any) -> Any:
    return one is True and other is True if isinstance(other, bool) else one


def _all_of(one: Any, other: Any) -> Any:
    if not isinstance(one, list) or not isinstance(other, list):
        return one
    both = [*one, *(item for item in other if item not in one)]
    # "Any capability" says nothing beside one that is named.
    return [item for item in both if item] or both


def _smaller(one: Any, other: Any) -> Any:
    comparable = all(isinstance(value, int) and not isinstance(value, bool) for value in (one, other))
    return min(one, other) if comparable else one


def _higher(one: Any, other: Any) -> Any:
    return max(one, other, key=LEVELS.index) if one in LEVELS and other in LEVELS else one


_STRICTER: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    APPROVAL_REQUIRED: _either,
    SIDE_EFFECTS: _either,
    CAPABILITY: _all_of,
    BUDGET_LIMIT: _smaller,
    SENSITIVITY: _higher,
    OBSERVE: _both,
}
