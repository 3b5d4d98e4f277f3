"""The OpenAPI document that a sidecar takes as `--spec`, made from the routes of an application.

It holds what the sidecar reads and nothing else: every route with its methods, also those that the application's
own document leaves out, because the sidecar judges them too, and the `x-chio-*` members. Descriptions and models
are left out, so the policy hash (wire protocol, section 6.4) changes when the policy does, and only then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chio_asgi.listing import ListedRoute, extension_sources, list_blind_mounts, list_routes
from chio_asgi.overlaps import find_overlaps, spans_segments
from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.guards.chain import Finding
from chio_core.models.openapi import chio_members, merge_members, needs_capability
from chio_core.templates import shape

OPENAPI_VERSION = "3.1.0"

OVERLAPPING = "overlapping_routes"
"""Category of the finding that router and sidecar take different routes for one path."""

_PARAMETER = re.compile(r"\{([^{}]*)\}")
_SCHEMAS = {"IntegerConvertor": {"type": "integer"}, "FloatConvertor": {"type": "number"}}
_DESCRIPTION = "What a sidecar has to know about this application; made from its routes."


@dataclass(frozen=True, slots=True)
class Document:
    """A document for a sidecar.

    Attributes:
        text: deterministic JSON, with a line break at its end.
        operations: how many operations it has.
        findings: what the sidecar will judge otherwise than the application's routes suggest.
    """

    text: str
    operations: int
    findings: tuple[Finding, ...]


def document_for(app: Any) -> str:
    """Return the document of an application as JSON: what `chio-sidecar openapi` writes.

    Args:
        app: a FastAPI or Starlette application, or the middleware around one.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    return describe(app).text


def describe(app: Any) -> Document:
    """Return the document of an application, and what to warn about.

    Args:
        app: a FastAPI or Starlette application, or the middleware around one.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    routes = list(list_routes(app))
    if not routes:
        raise ConfigurationError("the application has no routes to read; name a FastAPI or Starlette application")
    operations = _operations(routes, _Written())
    text = _text(_document(app, routes, operations))
    findings = (*_conflicts(operations), *_unmatchable(routes), *overlap_findings(app, routes), *_blind(app))
    return Document(text, len({(one.template, one.method) for one in operations}), findings)


def _text(document: dict[str, Any]) -> str:
    try:
        text = json.dumps(document, sort_keys=True, indent=2) + "\n"
        parse_json(text)
    except (InvalidDocument, TypeError, ValueError) as exc:
        why = exc.message if isinstance(exc, InvalidDocument) else str(exc)
        raise ConfigurationError(f"an x-chio-* member or a path of a route is no JSON: {why}; correct that") from None
    return text


def overlap_findings(app: Any, routes: Sequence[ListedRoute] | None = None) -> Iterator[Finding]:
    """Yield a finding for each pair of templates that router and sidecar choose differently.

    Args:
        app: an application with routes.
        routes: what `list_routes` says about it, where that is already known.
    """
    for one in find_overlaps(app, list(list_routes(app)) if routes is None else routes):
        outcome = "so such requests are refused" if one.refused else f"so the policy of {one.sidecar} counts for it"
        text = (
            f"{one.method} {one.path} runs {one.router} here but is {one.sidecar} to the sidecar, {outcome}; "
            "give the two paths that cannot meet, or add that route first which comes first in byte order"
        )
        yield Finding("WARN", OVERLAPPING, text)


@dataclass(frozen=True, slots=True)
class _Operation:
    method: str
    template: str
    members: Mapping[str, Any]
    route: ListedRoute


class _Written:
    """The `x-chio-*` members that people wrote themselves."""

    def __init__(self) -> None:
        self._documents: dict[int, Mapping[str, Any]] = {}

    def members(self, route: ListedRoute, method: str) -> Iterator[Mapping[str, Any]]:
        extra = getattr(route.route, "openapi_extra", None)
        if isinstance(extra, Mapping):
            yield chio_members(extra)
        if route.owner is not None and getattr(route.route, "include_in_schema", False):
            item = self._paths(route.owner).get(route.local)
            operation = item.get(method.lower()) if isinstance(item, Mapping) else None
            if isinstance(operation, Mapping):
                yield chio_members(operation)

    def _paths(self, owner: Any) -> Mapping[str, Any]:
        make = _own_openapi(owner)
        if make is None:
            return {}
        if id(owner) not in self._documents:
            try:
                self._documents[id(owner)] = make().get("paths") or {}
            except Exception as exc:  # noqa: BLE001 - it runs whatever the application has written
                raise ConfigurationError(
                    f"the application's own openapi() failed ({type(exc).__name__}), and its x-chio-* members with it; "
                    "call it once by hand to see why"
                ) from None
        return self._documents[id(owner)]


def _own_openapi(app: Any) -> Any:
    """Return the application's `openapi` if it is not the framework's, whose document holds nothing more."""
    make = app.openapi
    while hasattr(make, "chio_wrapped"):
        make = make.chio_wrapped
    return None if str(getattr(make, "__module__", "")).startswith("fastapi.") else make


def _operations(routes: Sequence[ListedRoute], written: _Written) -> list[_Operation]:
    found = []
    for route in routes:
        stated = [source.chio_extensions() for source in extension_sources(route)]
        for method in route.methods:
            members = merge_members([*stated, *written.members(route, method)])
            found.append(_Operation(method, route.template, members, route))
    return found


def _alike(operations: Sequence[_Operation]) -> dict[tuple[str, ...], list[_Operation]]:
    # To the sidecar, templates that differ only in the names of their parameters are one.
    groups: dict[tuple[str, ...], list[_Operation]] = {}
    for one in operations:
        groups.setdefault((one.method, *shape(one.template)), []).append(one)
    return groups


def _strictest(group: Sequence[_Operation]) -> _Operation:
    return max(group, key=lambda one: needs_capability(one.method, one.members))


def _conflicts(operations: Sequence[_Operation]) -> Iterator[Finding]:
    for group in _alike(operations).values():
        if any(one.members != group[0].members for one in group):
            places = ", ".join(dict.fromkeys(f"{one.method} {one.template}" for one in group))
            kept = ", ".join(sorted(_strictest(group).members)) or "no x-chio-* members"
            text = (
                f"{places}: {len(group)} routes of different policy that the sidecar cannot tell apart; "
                f"the strictest counts for all of them ({kept})"
            )
            yield Finding("WARN", "same_template", text)


def _unmatchable(routes: Sequence[ListedRoute]) -> Iterator[Finding]:
    for template, route in {route.template: route for route in routes}.items():
        for part in template.split("/"):
            names = _PARAMETER.findall(part)
            spans = [name for name in names if spans_segments(getattr(route.convertors.get(name), "regex", ""))]
            if spans:
                what = f"{{{spans[0]}}} takes several segments of a path and the sidecar matches one"
            elif names and part != f"{{{names[0]}}}":
                what = f"the segment {part} is more than a parameter, which the sidecar cannot match"
            else:
                continue
            text = f"{template}: {what}; what it does not match is judged by its plain path and method"
            yield Finding("WARN", "unmatchable_template", text)


def _blind(app: Any) -> Iterator[Finding]:
    for prefix in list_blind_mounts(app):
        text = f"what runs below {prefix or '/'} has no routes to look at, so it is judged by its plain path and method"
        yield Finding("INFO", "route_pattern", text)


def _document(app: Any, routes: Sequence[ListedRoute], operations: Sequence[_Operation]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    chosen = {key: _strictest(group).members for key, group in _alike(operations).items()}
    names: set[str] = set()
    for one in operations:
        item = paths.setdefault(one.template, {})
        if one.method.lower() not in item:
            item[one.method.lower()] = {**_body(one, names), **chosen[(one.method, *shape(one.template))]}
    title = getattr(routes[0].owner, "title", None)
    info = {"title": title if isinstance(title, str) else "application", "version": "1", "description": _DESCRIPTION}
    return {"openapi": OPENAPI_VERSION, "info": info, "paths": paths}


def _body(operation: _Operation, taken: set[str]) -> dict[str, Any]:
    body: dict[str, Any] = {
        "operationId": _operation_id(operation, taken),
        "responses": {"default": {"description": "What the application answers."}},
    }
    names = dict.fromkeys(_PARAMETER.findall(operation.template))
    if names:
        body["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _schema(operation.route.convertors.get(name))}
            for name in names
        ]
    return body


def _schema(convertor: Any) -> dict[str, Any]:
    kind = type(convertor).__name__
    return {"type": "string", "format": "uuid"} if kind == "UUIDConvertor" else _SCHEMAS.get(kind, {"type": "string"})


def _operation_id(operation: _Operation, taken: set[str]) -> str:
    name = getattr(operation.route.route, "name", None) or ""
    wanted = found = re.sub(r"\W", "_", f"{name}{operation.template}_{operation.method.lower()}", flags=re.ASCII)
    number = 2
    while found in taken:
        found, number = f"{wanted}_{number}", number + 1
    taken.add(found)
    return found
