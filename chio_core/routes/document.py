"""The OpenAPI document for a sidecar (`--spec`), made from the routes of an application.

It holds only what the sidecar reads: every route with its methods, also those that the application's own document
omits, because the sidecar evaluates them too, and the `x-chio-*` members. Without descriptions and models, the policy
hash (wire protocol, section 6.4) changes if, and only if, the policy does.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chio_core.canonical import parse_json
from chio_core.errors import ConfigurationError, InvalidDocument
from chio_core.guards.chain import Finding
from chio_core.models.openapi import (
    APPROVAL,
    APPROVAL_REQUIRED,
    BUDGET,
    BUDGET_LIMIT,
    DESCRIPTION,
    chio_members,
    merge_members,
    needs_capability,
)
from chio_core.models.receipt import shape
from chio_core.names import LOGGER
from chio_core.routes.listing import ListedRoute, Overlap, find_overlaps, is_reached, spans_segments

log = logging.getLogger(LOGGER)

OPENAPI_VERSION = "3.1.0"

OVERLAPPING = "overlapping_routes"
"""Category of the finding that router and sidecar choose different routes for one path."""

_PARAMETER = re.compile(r"\{([^{}]*)\}")
# By the names of convertor classes: `IntegerConvertor` in Starlette, `IntConverter` in Django.
_SCHEMAS = {
    "Int": {"type": "integer"},
    "Integer": {"type": "integer"},
    "Float": {"type": "number"},
    "UUID": {"type": "string", "format": "uuid"},
}


@dataclass(frozen=True, slots=True)
class Document:
    """A document for a sidecar.

    Attributes:
        text: deterministic JSON, with a line break at its end.
        operations: number of operations.
        findings: where the sidecar's evaluation differs from what the application's routes suggest.
        left_out: method and template of each operation that the document does not have, because the sidecar would
            choose it for requests that run another route.
    """

    text: str
    operations: int
    findings: tuple[Finding, ...]
    left_out: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Operation:
    """An operation with its policy; `written` are those members that no dependency of the route states."""

    method: str
    template: str
    members: Mapping[str, Any]
    written: Mapping[str, Any]
    route: ListedRoute

    @property
    def key(self) -> tuple[str, ...]:
        """Equal for operations that the sidecar cannot tell apart: parameter names do not count."""
        return (self.method, *shape(self.template))


def describe(
    routes: Sequence[ListedRoute],
    *,
    title: str = "application",
    mounts: Sequence[str] = ("",),
    blind: Iterable[str] = (),
) -> Document:
    """Return the document of an application, with findings.

    Args:
        routes: all its routes, in the order in which its router tries them.
        title: its name.
        mounts: templates of the mounts through which requests reach the application. Findings name its own templates.
        blind: prefixes of what it serves without routes to read.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    if not routes:
        raise ConfigurationError("the application has no routes to read")
    operations = _operations(routes)
    groups: dict[tuple[str, ...], list[_Operation]] = {}
    for one in operations:
        groups.setdefault(one.key, []).append(one)
    # The sidecar has one policy for operations that it cannot tell apart: the strictest, so that it opens none of them.
    strictest = {
        key: max(group, key=lambda one: needs_capability(one.method, one.members)).members
        for key, group in groups.items()
    }

    overlaps, left_out = _left_out(routes, operations, strictest)
    paths: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for mount in mounts:
        for one in operations:
            if (one.method, one.template) in left_out:
                continue
            item = paths.setdefault(mount + one.template, {})
            if one.method.lower() not in item:
                item[one.method.lower()] = {**_operation_object(one, mount, taken), **strictest[one.key]}
    info = {"title": title, "version": "1", "description": DESCRIPTION}
    try:
        document = {"openapi": OPENAPI_VERSION, "info": info, "paths": paths}
        text = json.dumps(document, sort_keys=True, indent=2) + "\n"
        parse_json(text)
    except (InvalidDocument, TypeError, ValueError) as exc:
        why = exc.message if isinstance(exc, InvalidDocument) else str(exc)
        raise ConfigurationError(f"an x-chio-* member or a path of a route is no JSON: {why}; correct that") from None

    findings = [
        _differing(group, strictest[key])
        for key, group in groups.items()
        if any(one.members != group[0].members for one in group)
    ]
    without_policy = {(one.method, one.template) for one in operations if not strictest[one.key]}
    findings += [*_unmatchable(routes), *_overlap_findings(overlaps, left_out, without_policy)]
    for prefix in blind:
        message = f"what runs below {prefix or '/'} has no routes to read, so its plain path and method are evaluated"
        findings.append(Finding("INFO", "route_pattern", message))
    return Document(text, sum(map(len, paths.values())), tuple(findings), left_out)


def _differing(group: Sequence[_Operation], strictest: Mapping[str, Any]) -> Finding:
    places = ", ".join(dict.fromkeys(f"{one.method} {one.template}" for one in group))
    kept = ", ".join(sorted(strictest)) or "no x-chio-* members"
    message = (
        f"{places}: {len(group)} routes of different policy that the sidecar cannot tell apart; "
        f"the strictest counts for all of them ({kept})"
    )
    return Finding("WARN", "same_template", message)


def document_for_embedded(make: Callable[[], Document]) -> str | None:
    """Return the text of the document that an embedded sidecar uses; None for an application without routes.

    Args:
        make: returns the document; it raises `ConfigurationError` without one.
    """
    try:
        found = make()
    except ConfigurationError:
        return None
    for finding in found.findings:
        if finding.category == OVERLAPPING and finding.severity == "WARN":
            log.warning("chio: %s", finding.message)
    return found.text


def _left_out(
    routes: Sequence[ListedRoute],
    operations: Sequence[_Operation],
    strictest: Mapping[tuple[str, ...], Mapping[str, Any]],
) -> tuple[list[Overlap], frozenset[tuple[str, str]]]:
    """Return the overlaps of routes, and the operations without which router and sidecar agree.

    The receipt of an overlapping request names the route that the sidecar chooses, and the client refuses it. Without
    that operation the request is evaluated as what runs. The policy of the operation's other paths is lost then, so an
    operation stays if the document alone makes it stricter than the default.
    """
    stays = set()
    for one in operations:
        members, written = strictest[one.key], one.written
        stricter = needs_capability(one.method, written) and not needs_capability(one.method, {})
        if stricter or written.get(APPROVAL_REQUIRED) or not {APPROVAL, BUDGET, BUDGET_LIMIT}.isdisjoint(members):
            stays.add((one.method, one.template))
    found: list[Overlap] = []
    without: frozenset[tuple[str, str]] = frozenset()
    while True:
        # Without one template the sidecar may choose the next one for the same path.
        new = [one for one in find_overlaps(routes, without) if one not in found]
        found += new
        left = {
            (one.method, one.sidecar)
            for one in new
            if (one.method, one.sidecar) not in stays
            or ("{" not in one.sidecar and not is_reached(routes, one.method, one.sidecar))
        }
        if left <= without:
            return found, without
        without |= left


def _overlap_findings(
    overlaps: Sequence[Overlap], left_out: Collection[tuple[str, str]], without_policy: Collection[tuple[str, str]]
) -> Iterator[Finding]:
    # A view without stated methods has all of them: one finding names them.
    methods: dict[tuple[Overlap, bool, bool], list[str]] = {}
    for one in overlaps:
        operation = (one.method, one.sidecar)
        key = (replace(one, method=""), operation in left_out, operation in without_policy)
        methods.setdefault(key, []).append(one.method)
    for (one, is_left_out, is_harmless), names in methods.items():
        named = ", ".join(names)
        outcome = "so such requests are refused" if one.refused else f"so the policy of {one.sidecar} counts for it"
        if is_left_out:
            outcome = f"so the document leaves out {named} {one.sidecar}, whose paths are evaluated without its policy"
        remedy = f"add {one.sidecar} before {one.router}" if one.reorder else "give the two paths that cannot meet"
        severity = "WARN"
        if is_left_out and is_harmless and not one.reorder:
            severity, remedy = "INFO", "it has none, so no decision changes"
        text = f"{named} {one.path} runs {one.router} here but is {one.sidecar} to the sidecar, {outcome}; {remedy}"
        yield Finding(severity, OVERLAPPING, text)


def _operations(routes: Sequence[ListedRoute]) -> list[_Operation]:
    """Return all operations with their policy: of the dependencies, of `openapi_extra`, of the application's document.

    Raises:
        ConfigurationError: the application's own `openapi()` failed.
    """
    documents: dict[int, Mapping[str, Any]] = {}
    found = []
    for route in routes:
        stated = route.extensions()
        extra = getattr(route.route, "openapi_extra", None)
        item: Any = None
        if route.owner is not None and getattr(route.route, "include_in_schema", False):
            if id(route.owner) not in documents:
                documents[id(route.owner)] = _written_paths(route.owner)
            item = documents[id(route.owner)].get(route.local)
        for method in route.methods:
            own = item.get(method.lower()) if isinstance(item, Mapping) else None
            written = [chio_members(one) for one in (extra, own) if isinstance(one, Mapping)]
            members = merge_members([*stated, *written])
            found.append(_Operation(method, route.template, members, merge_members(written), route))
    return found


def _written_paths(app: Any) -> Mapping[str, Any]:
    """Return `paths` of an application's own document; empty if FastAPI makes it, because that holds nothing more."""
    make = app.openapi
    while hasattr(make, "chio_wrapped"):
        make = make.chio_wrapped
    if str(getattr(make, "__module__", "")).startswith("fastapi."):
        return {}
    try:
        return make().get("paths") or {}
    except Exception as exc:  # noqa: BLE001 - it is the application's code
        raise ConfigurationError(
            f"the application's own openapi() failed ({type(exc).__name__}), and its x-chio-* members with it; "
            "call it once by hand to see why"
        ) from None


def _operation_object(operation: _Operation, mount: str, taken: set[str]) -> dict[str, Any]:
    """Return the OpenAPI object of an operation without its policy; its id is added to those that are taken."""
    name, template = operation.route.name, mount + operation.template
    wanted = found = re.sub(r"\W", "_", f"{name}{template}_{operation.method.lower()}", flags=re.ASCII)
    number = 2
    while found in taken:
        found, number = f"{wanted}_{number}", number + 1
    taken.add(found)
    made: dict[str, Any] = {
        "operationId": found,
        "responses": {"default": {"description": "The response of the application."}},
    }
    convertors = operation.route.convertors
    if names := dict.fromkeys(_PARAMETER.findall(template)):
        kinds = {name: re.sub(r"Convert[eo]r$", "", type(convertors.get(name)).__name__) for name in names}
        schemas = {name: _SCHEMAS.get(kind, {"type": "string"}) for name, kind in kinds.items()}
        made["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": schema} for name, schema in schemas.items()
        ]
    return made


def _unmatchable(routes: Sequence[ListedRoute]) -> Iterator[Finding]:
    places: dict[str, list[str]] = {}
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
            places.setdefault(what, []).append(template)
    for what, templates in places.items():
        more = f" and {len(templates) - 1} more" if len(templates) > 1 else ""
        text = (
            f"{templates[0]}{more}: {what}; of a path that it does not match, the plain path and method are evaluated"
        )
        yield Finding("WARN", "unmatchable_template", text)
