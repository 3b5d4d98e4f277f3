"""What a route of an OpenAPI document asks for (`x-chio-capability`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chio_core.models.openapi import CAPABILITY
from chio_sidecar.explain.capability import Wanted
from chio_sidecar.policy.openapi import read_operations


def wanted_by(spec_text: str, method: str, pattern: str) -> Wanted | None:
    """Return the capability that an operation names; None when it names none, or there is no such operation.

    Args:
        spec_text: the document, JSON or YAML.
        method: upper case.
        pattern: the template as a receipt states it.

    Raises:
        ConfigurationError: the document cannot be read.
    """
    return wanted_among(read_operations(spec_text), method, pattern)


def wanted_among(known: Iterable[tuple[str, str, dict[str, Any]]], method: str, pattern: str) -> Wanted | None:
    """Do the same for a document whose operations (template, method, object) were read before."""
    for template, operation_method, operation in known:
        if (template, operation_method) != (pattern, method):
            continue
        named = operation.get(CAPABILITY)
        first = next((one for one in named if isinstance(one, dict)), None) if isinstance(named, list) else None
        if first is None:
            return None
        server, tool, operations = first.get("server"), first.get("tool"), first.get("operations")
        if not isinstance(server, str) or not isinstance(tool, str):
            return Wanted()  # `[{}]`: any capability
        listed = tuple(one for one in operations if isinstance(one, str)) if isinstance(operations, list) else ()
        return Wanted(server, tool, listed or ("invoke",))
    return None
