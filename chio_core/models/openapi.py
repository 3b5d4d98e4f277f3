"""The `x-chio-*` members of an OpenAPI operation: their names, and how members of several sources are merged.

The protocol defines some of them (wire protocol, section 6.3). The others are extensions of this project, which
other sidecars ignore.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, get_args

from chio_core.errors import ConfigurationError
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
"""All known members; any other name that begins with `x-chio-` is a mistake."""

Sensitivity = Literal["public", "internal", "sensitive", "restricted"]
"""Sensitivity of a route, lowest first (wire protocol, section 6.3)."""

LEVELS: Final = get_args(Sensitivity)
"""Values of `x-chio-sensitivity`, least sensitive first."""

CAPABILITY_SCHEME: Final = "ChioCapability"
"""Name of the security scheme in the documents of all frameworks."""

CAPABILITY_SCHEME_TEXT: Final = (
    "A capability token, as compact ASCII JSON, that an authority trusted by the sidecar has issued."
)
"""Description of the security scheme."""

DESCRIPTION: Final = "The routes and the policy of this application, for its sidecar."
"""Description of the documents that `chio_core.routes.document` makes."""

PROBLEM_SCHEMA: Final = "ChioProblem"
"""Name of the schema of a refusal in the documents of FastAPI applications."""


def stated(place: str, sensitivity: Any, side_effects: Any) -> dict[str, Any]:
    """Return the members of an operation for what is stated; what is None is left out.

    Args:
        place: how to name what states it, in an error.

    Raises:
        ConfigurationError: a value that the document cannot have.
    """
    if sensitivity is not None and sensitivity not in LEVELS:
        raise ConfigurationError(f"{place}(sensitivity=…) takes one of: {', '.join(LEVELS)}")
    if side_effects is not None and not isinstance(side_effects, bool):
        raise ConfigurationError(f"{place}(side_effects=…) takes True or False")
    members = {SENSITIVITY: sensitivity, SIDE_EFFECTS: side_effects}
    return {name: value for name, value in members.items() if value is not None}


def is_listed(document: Mapping[str, Any]) -> bool:
    """Return True if an adapter has made a document from the routes of the application.

    It then has every method that the application serves, and its paths are those that are evaluated, whatever prefix
    `servers` names: FastAPI writes `root_path` there, which is never evaluated.
    """
    info, components = document.get("info"), document.get("components")
    schemas = components.get("schemas") if isinstance(components, Mapping) else None
    described = isinstance(info, Mapping) and info.get("description") == DESCRIPTION
    return described or (isinstance(schemas, Mapping) and PROBLEM_SCHEMA in schemas)


def chio_members(operation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of an operation whose names begin with `x-chio-`."""
    return {name: value for name, value in operation.items() if name.startswith(PREFIX)}


def merge_members(sources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the members of one operation from several sources; of different values the stricter one wins.

    Args:
        sources: members by name, most important source first. Of values that cannot be compared the first wins.
    """
    found: dict[str, Any] = {}
    for source in sources:
        # Two budgets are two accounts: the limit of the second is not a limit of the first.
        other_account = BUDGET in source and BUDGET in found
        for name, value in source.items():
            if other_account and name == BUDGET_LIMIT:
                continue
            found[name] = _stricter(name, found[name], value) if name in found else value
    return found


def _stricter(name: str, one: Any, other: Any) -> Any:
    if name in (APPROVAL_REQUIRED, SIDE_EFFECTS) and isinstance(other, bool):
        return one is True or other
    if name == OBSERVE and isinstance(other, bool):
        return one is True and other
    if name == CAPABILITY and isinstance(one, list) and isinstance(other, list):
        both = [*one, *(item for item in other if item not in one)]
        # An empty item is "any capability", which a named one includes.
        return [item for item in both if item] or both
    if name == BUDGET_LIMIT and all(isinstance(value, int) and not isinstance(value, bool) for value in (one, other)):
        return min(one, other)
    if name == SENSITIVITY and one in LEVELS and other in LEVELS:
        return max(one, other, key=LEVELS.index)
    return one


def needs_capability(method: str, members: Mapping[str, Any]) -> bool:
    """Return True if an operation is refused to callers without a capability.

    Args:
        method: upper case.
        members: its `x-chio-*` members.
    """
    if members.get(APPROVAL_REQUIRED) is True or members.get(CAPABILITY):
        return True
    effects = members.get(SIDE_EFFECTS)
    return effects if isinstance(effects, bool) else method not in SAFE_METHODS
