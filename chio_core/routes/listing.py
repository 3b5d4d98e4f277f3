"""The routes of an application, as its framework lists them, and those that router and sidecar choose differently."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from chio_core.models.receipt import acceptable_pattern, covers, shape

_LONGEST = 1_000  # segments
_SAMPLES = ("q7w3x", "7", "7.5", "6a5f0c52-33c4-4a3c-9a4e-6a7d5d3a8c11")
_PARAMETER = re.compile(r"\{([^{}]*)\}")

Resolve = Callable[[str, str], str | None]
"""Returns the template of the route that runs for a method and a path; None without one."""


@runtime_checkable
class ExtensionSource(Protocol):
    """What states policy in the OpenAPI document: a dependency, a decorator, a permission."""

    def chio_extensions(self) -> dict[str, Any]:
        """Return its `x-chio-*` members."""
        ...


@dataclass(frozen=True, slots=True)
class ListedRoute:
    """One route.

    Attributes:
        template: its full path template, mounts included, as receipts state it.
        methods: its methods, sorted, as far as the protocol knows them; GET alone for a websocket.
        resolve: the application's own router, for requests that reach this route's host.
        sources: what states its policy or its requirement, outermost first.
        name: the name of its view.
        websocket: it accepts websockets, whose handshake is evaluated as a GET.
        convertors: objects with a `regex`, by the names of the parameters; those of mounts included.
        route: the framework's route.
        owner: the application whose own OpenAPI document describes the route; None without one.
        local: the template in that document.
        host: a host that leads here; None: any.
    """

    template: str
    methods: tuple[str, ...]
    resolve: Resolve
    sources: tuple[Any, ...] = ()
    name: str = ""
    websocket: bool = False
    convertors: Mapping[str, Any] = field(default_factory=dict)
    route: Any = None
    owner: Any = None
    local: str = ""
    host: str | None = None

    @property
    def title(self) -> str:
        """Methods and template, for example `GET|HEAD /pets/{id}`."""
        return f"{'websocket' if self.websocket else '|'.join(self.methods)} {self.template}"

    def extensions(self) -> list[dict[str, Any]]:
        """Return the `x-chio-*` members that each of its sources states, outermost first."""
        return [source.chio_extensions() for source in self.sources if isinstance(source, ExtensionSource)]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A request for which router and sidecar choose different templates.

    Attributes:
        method: upper case.
        path: its path.
        router: the template of the route that would run.
        sidecar: the template that the sidecar states.
        refused: such requests are refused; else the policy of `sidecar` applies to them.
        reorder: the two agree if the route of `sidecar` is added first, and both routes still serve paths.
    """

    method: str
    path: str
    router: str
    sidecar: str
    refused: bool
    reorder: bool


def find_overlaps(routes: Sequence[ListedRoute], without: Collection[tuple[str, str]] = ()) -> Iterator[Overlap]:
    """Yield one overlap for each pair of templates and method that has any.

    The router tries its routes in the order in which they were added. The sidecar takes the first template in byte
    order whose segments fit (wire protocol, section 6.2). If the two differ, the receipt names another route than the
    one that would run, and the client refuses it, unless the sidecar's template is literally the path: then the
    request runs under the other route's policy. Each pair of templates that share a path is tried with such a path, on
    the real routes.

    Args:
        routes: all routes of an application.
        without: methods and templates that the sidecar does not know.
    """
    tables = _Tables(routes, without)
    seen: set[tuple[str, str, str]] = set()
    for route in routes:
        for method in route.methods:
            for path in dict.fromkeys(_paths(route, method, tables)):
                template, pattern = route.resolve(method, path), tables.match(method, path)
                if template is None or shape(template) == shape(pattern) or (method, template, pattern) in seen:
                    continue
                refused = not acceptable_pattern(pattern, path, template)
                # A path that no template of the sidecar covers is its own pattern, which is no other route.
                if refused or tables.knows(method, pattern):
                    seen.add((method, template, pattern))
                    own = "/".join(part.sample or part.text for part in _parts(route))
                    reorder = not covers(pattern, own) and any(
                        other.template == pattern and _serves(other, path) for other in routes
                    )
                    yield Overlap(method, path, template, pattern, refused, reorder)


def is_reached(routes: Sequence[ListedRoute], method: str, path: str) -> bool:
    """Return True if the router chooses a route for its template, which is a path without parameters."""
    return any(
        route.template == path and method in route.methods and route.resolve(method, path) == path for route in routes
    )


class _Tables:
    """The templates of each method and number of segments: those without and those with parameters."""

    def __init__(self, routes: Iterable[ListedRoute], without: Collection[tuple[str, str]]) -> None:
        self._sizes: dict[tuple[str, int], tuple[dict[str, None], dict[str, None]]] = {}
        for route in routes:
            for method in route.methods:
                if (method, route.template) in without:
                    continue
                literal, variable = self._sizes.setdefault((method, route.template.count("/")), ({}, {}))
                (variable if "{}" in shape(route.template) else literal)[route.template] = None

    def others(self, method: str, at_least: int, at_most: int) -> Iterator[str]:
        for (name, size), (literal, variable) in self._sizes.items():
            if name == method and at_least <= size <= at_most:
                yield from (*literal, *variable)

    def match(self, method: str, path: str) -> str:
        """Return the first template in byte order that covers the path, else the path."""
        literal, variable = self._sizes.get((method, path.count("/")), ({}, {}))
        found = [path] if path in literal else []
        return min([*found, *(one for one in variable if covers(one, path))], default=path)

    def knows(self, method: str, template: str) -> bool:
        return any(template in kind for kind in self._sizes.get((method, template.count("/")), ()))


def _paths(route: ListedRoute, method: str, tables: _Tables) -> Iterator[str]:
    """Yield paths that may lead to the route and that another template covers as well."""
    parts = _parts(route)
    if not any(part.sample for part in parts):
        if tables.match(method, route.template) != route.template:
            yield route.template
        return
    size = len(parts) - 1
    for other in tables.others(method, size, _LONGEST if any(part.spans for part in parts) else size):
        path = _common_path(parts, other.split("/")) if other != route.template else None
        if path is not None:
            yield path


def _parts(route: ListedRoute) -> list[_Part]:
    return [_Part(text, route.convertors) for text in route.template.split("/")]


def _serves(route: ListedRoute, path: str) -> bool:
    """Return True if a route's template and convertors match a path."""
    pieces = _PARAMETER.split(route.template)  # every second one is the name of a parameter
    return bool(
        re.fullmatch(
            "".join(
                f"(?:{getattr(route.convertors.get(piece), 'regex', '[^/]+')})" if number % 2 else re.escape(piece)
                for number, piece in enumerate(pieces)
            ),
            path,
        )
    )


class _Part:
    """One segment of a route's template.

    Attributes:
        sample: the segment with values for its parameters; empty without parameters.
        spans: a parameter takes several segments of a path.
    """

    def __init__(self, text: str, convertors: Any) -> None:
        names = _PARAMETER.findall(text)
        known = {name: getattr(convertors.get(name), "regex", "[^/]+") for name in names}
        samples = {
            name: next((one for one in _SAMPLES if re.fullmatch(regex, one)), _SAMPLES[0])
            for name, regex in known.items()
        }
        self.text = text
        self.sample = _PARAMETER.sub(lambda found: samples[found[1]], text) if names else ""
        self.spans = any(spans_segments(regex) for regex in known.values())


def spans_segments(regex: str) -> bool:
    """Return True if a convertor takes more than one segment of a path."""
    return re.fullmatch(regex, "a/b") is not None


def _common_path(parts: Sequence[_Part], other: Sequence[str]) -> str | None:
    """Return a path for the route that the segments of another template cover, None if there is no such path."""
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
