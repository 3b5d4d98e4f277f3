"""Requests for which the router and the sidecar would choose different templates.

The router asks its routes in the order in which they were added; the sidecar takes the first template in byte
order whose segments fit (wire protocol, section 6.2). Where the two differ, the receipt is about another route
than the one that would run. The client refuses it, unless that other template is literally the path: then the
request runs, judged by the other route's policy. Each pair of templates that can meet is tried with a path made
for it, on the real routes: what is found here happens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from chio_asgi.listing import ListedRoute
from chio_asgi.routing import RouteResolver
from chio_core.templates import acceptable_pattern, covers, shape

_LONGEST = 1_000  # segments
_SAMPLES = ("q7w3x", "7", "7.5", "6a5f0c52-33c4-4a3c-9a4e-6a7d5d3a8c11")
_PARAMETER = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Overlap:
    """One disagreement.

    Attributes:
        method: upper case.
        path: a path for which it happens.
        router: the template of the route that would run.
        sidecar: the template that the sidecar states.
        refused: such requests are refused; else they are judged by the policy of `sidecar`.
    """

    method: str
    path: str
    router: str
    sidecar: str
    refused: bool


def find_overlaps(app: Any, routes: Sequence[ListedRoute]) -> Iterator[Overlap]:
    """Yield the disagreements of an application, one for each pair of templates and method.

    Args:
        app: the application.
        routes: its routes, from `chio_asgi.listing.list_routes`.
    """
    resolve = RouteResolver(app)
    tables = _Tables(routes)
    seen: set[tuple[str, str, str]] = set()
    for route in routes:
        for method in route.methods:
            for path in dict.fromkeys(_paths(route, method, tables)):
                found = _compare(resolve, tables, _scope(route, method, path), method)
                if found is not None and (method, found.router, found.sidecar) not in seen:
                    seen.add((method, found.router, found.sidecar))
                    yield found


def _compare(resolve: RouteResolver, tables: _Tables, scope: dict[str, Any], method: str) -> Overlap | None:
    path = scope["path"]
    template, pattern = resolve(scope).template, tables.match(method, path)
    if template is None or shape(template) == shape(pattern):
        return None
    refused = not acceptable_pattern(pattern, path, template)
    # A path that none of the sidecar's templates fits stands for itself, and so for no other route.
    return Overlap(method, path, template, pattern, refused) if refused or tables.knows(method, pattern) else None


class _Tables:
    """The templates of each method, by their number of segments."""

    def __init__(self, routes: Iterable[ListedRoute]) -> None:
        self._sizes: dict[tuple[str, int], _Templates] = {}
        for route in routes:
            for method in route.methods:
                key = (method, route.template.count("/"))
                self._sizes.setdefault(key, _Templates()).add(route.template)

    def others(self, method: str, at_least: int, at_most: int) -> Iterator[str]:
        for (name, size), templates in self._sizes.items():
            if name == method and at_least <= size <= at_most:
                yield from templates.literal
                yield from templates.open

    def match(self, method: str, path: str) -> str:
        templates = self._sizes.get((method, path.count("/")))
        return path if templates is None else templates.match(path)

    def knows(self, method: str, template: str) -> bool:
        templates = self._sizes.get((method, template.count("/")))
        return templates is not None and template in templates.literal | templates.open


class _Templates:
    def __init__(self) -> None:
        self.literal: dict[str, None] = {}
        self.open: dict[str, None] = {}

    def add(self, template: str) -> None:
        (self.open if "{}" in shape(template) else self.literal)[template] = None

    def match(self, path: str) -> str:
        """Return the first template in byte order that covers the path, or else the path."""
        found = [path] if path in self.literal else []
        return min([*found, *(one for one in self.open if covers(one, path))], default=path)


def _paths(route: ListedRoute, method: str, tables: _Tables) -> Iterator[str]:
    """Yield paths that the route may take and that another template covers as well."""
    parts = [_Part(text, route.convertors) for text in route.template.split("/")]
    if not any(part.sample for part in parts):
        if tables.match(method, route.template) != route.template:
            yield route.template
        return
    size = len(parts) - 1
    for other in tables.others(method, size, _LONGEST if any(part.spans for part in parts) else size):
        path = _meeting(parts, other.split("/")) if other != route.template else None
        if path is not None:
            yield path


class _Part:
    """One segment of a route's template: its text, a value for it if it has parameters, whether it spans several."""

    def __init__(self, text: str, convertors: Any) -> None:
        names = _PARAMETER.findall(text)
        known = {name: getattr(convertors.get(name), "regex", "[^/]+") for name in names}
        self.text = text
        self.sample = _PARAMETER.sub(lambda found: _sample(known[found[1]]), text) if names else ""
        self.spans = any(spans_segments(regex) for regex in known.values())


def spans_segments(regex: str) -> bool:
    """Tell whether a convertor takes more than one segment of a path."""
    return re.fullmatch(regex, "a/b") is not None


def _sample(regex: str) -> str:
    return next((text for text in _SAMPLES if re.fullmatch(regex, text)), _SAMPLES[0])


def _meeting(parts: Sequence[_Part], other: Sequence[str]) -> str | None:
    """Return a path for the route that the segments of another template cover, None when they cannot meet."""
    more = len(other) - len(parts)
    path: list[str] = []
    for part in parts:
        for _ in range(1 + (more if part.spans else 0)):
            wanted = other[len(path)]
            if wanted[:1] == "{" and wanted[-1:] == "}":
                path.append(part.sample or part.text)
            elif part.sample or part.text == wanted:
                path.append(wanted)
            else:
                return None
        if part.spans:
            more = 0
    return "/".join(path)


def _scope(route: ListedRoute, method: str, path: str) -> dict[str, Any]:
    headers = [] if route.host is None else [(b"host", route.host.encode())]
    kind = {"type": "websocket"} if route.websocket else {"type": "http", "method": method}
    return {**kind, "path": path, "root_path": "", "query_string": b"", "headers": headers}
