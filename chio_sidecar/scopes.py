"""The short scope texts that a mint call takes, for example `tools:search` (wire protocol, section 7.3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from chio_core.errors import InvalidDocument

_OPERATIONS = {
    "invoke": "invoke",
    "call": "invoke",
    "exec": "invoke",
    "execute": "invoke",
    "read_result": "read_result",
    "result": "read_result",
    "read": "read",
    "subscribe": "subscribe",
    "watch": "subscribe",
    "get": "get",
    "delegate": "delegate",
}


def parse_scopes(texts: Iterable[str]) -> dict[str, Any]:
    """Translate scope texts to the JSON object of a scope; lists that stay empty are left out.

    Raises:
        InvalidDocument: a text that the grammar does not know; the message is the protocol's own.
    """
    scope: dict[str, list[dict[str, Any]]] = {"grants": [], "resource_grants": [], "prompt_grants": []}
    for text in texts:
        kind, grant = _parse(text)
        scope[kind].append(grant)
    return {kind: grants for kind, grants in scope.items() if grants}


def _parse(raw: str) -> tuple[str, dict[str, Any]]:
    parts = [part for part in (piece.strip() for piece in raw.split(":")) if part]
    match parts:
        case ["tools", name, *more]:
            return "grants", _tool("*", ":".join([name, *more]), "invoke")
        case [tool, operation]:
            return "grants", _tool("*", tool, _operation(operation, write="invoke"))
        case ["tool", server, tool, operation]:
            return "grants", _tool(server, tool, _operation(operation))
        case ["resource", uri, operation]:
            return "resource_grants", {"uri_pattern": uri, "operations": [_operation(operation)]}
        case ["prompt", name, operation]:
            return "prompt_grants", {"prompt_name": name, "operations": [_operation(operation)]}
    raise InvalidDocument(f"unsupported controller scope syntax: {raw}")


def _tool(server: str, tool: str, operation: str) -> dict[str, Any]:
    return {"server_id": server, "tool_name": tool, "operations": [operation]}


def _operation(text: str, *, write: str | None = None) -> str:
    # Only the two-part form knows `write`: there it means that the tool may be called.
    found = write if write and text.lower() == "write" else _OPERATIONS.get(text.lower())
    if found is None:
        raise InvalidDocument(f"unsupported controller scope operation: {text}")
    return found
