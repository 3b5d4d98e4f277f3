"""What a document says that will not be read, although somebody seems to have meant it.

The protocol counts values of another type as absent and looks for policy in operations only (wire protocol,
section 6.3). A slip of the pen there weakens the policy without a word, so each one is named, with its remedy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from chio_core.models.openapi import (
    APPROVAL_REQUIRED,
    BUDGET_LIMIT,
    KNOWN,
    LEVELS,
    OBSERVE,
    PREFIX,
    PUBLISH,
    SENSITIVITY,
    SIDE_EFFECTS,
)
from chio_sidecar.policy.openapi import METHODS, path_items

_MOST = 50
_METHODS = frozenset(METHODS)


def doubts(document: dict[str, Any]) -> list[str]:
    """Return one sentence for each place of a document that is ignored and looks like policy.

    Args:
        document: as `chio_sidecar.policy.openapi.load` gives it.

    Returns:
        At most 50 sentences, and one that counts the rest.

    Raises:
        ConfigurationError: `failed to parse OpenAPI spec: …`.
    """
    found = [*_misplaced(document, "the document"), *_misplaced(document.get("info"), "info")]
    found += _misplaced(document.get("paths"), "paths")
    for template, item in path_items(document):
        found += _in_path_item(template, item)
    return found if len(found) <= _MOST else [*found[:_MOST], f"and {len(found) - _MOST} more of this kind"]


def _in_path_item(template: str, item: Mapping[str, Any]) -> Iterator[str]:
    if not template.startswith("/"):
        yield f"path {template[:200]!r} does not begin with a slash and never matches; write {'/' + template[:200]!r}"
    yield from _misplaced(item, f"path {template}")
    for name, value in item.items():
        if name in _METHODS:
            if isinstance(value, dict):
                yield from _in_operation(value, f"{name.upper()} {template}")
        elif name.lower() in _METHODS:
            yield f"{name} of path {template} is no operation and is ignored; write {name.lower()}"


def _in_operation(operation: Mapping[str, Any], place: str) -> Iterator[str]:
    for name, value in operation.items():
        if name in KNOWN:
            expected = _EXPECTED.get(name)
            if expected is not None and value is not None and not expected[0](value):
                yield f"{name} of {place} is {expected[1]} and therefore ignored; {expected[2]}"
        elif _looks_ours(name):
            yield f"{name} of {place} is unknown and is ignored; known are {', '.join(sorted(KNOWN))}"


def _misplaced(holder: Any, place: str) -> Iterator[str]:
    for name in holder if isinstance(holder, dict) else ():
        if _looks_ours(name):
            yield f"{name} of {place} is ignored; write it into each operation that it is meant for"


def _looks_ours(name: str) -> bool:
    return name.lower().replace("_", "-").startswith(PREFIX.rstrip("-"))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_level(value: Any) -> bool:
    return isinstance(value, str) and value in LEVELS


def _is_limit(value: Any) -> bool:
    return type(value) is int and value >= 0


_FLAG = (_is_flag, "neither true nor false", "write true or false, without quotes")
_EXPECTED: Final[Mapping[str, tuple[Callable[[Any], bool], str, str]]] = {
    **dict.fromkeys((APPROVAL_REQUIRED, SIDE_EFFECTS, OBSERVE, PUBLISH), _FLAG),
    SENSITIVITY: (_is_level, "no level", f"write one of {', '.join(LEVELS)}"),
    BUDGET_LIMIT: (_is_limit, "no amount", "write a whole number from 0 on, without quotes"),
}
"""Members that the protocol counts as absent when they are of another type: the test, the finding, the remedy."""
