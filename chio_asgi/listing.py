"""The routes of an application, listed without a request, and those that router and sidecar choose differently.

Templates and requirements are those that `chio_asgi.routing` finds for a request: mounts, hosts and included routers
are entered in the same way. Attributes are read, not types, so this works with Starlette, FastAPI and look-alikes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from chio_asgi.routing import MAX_DEPTH, RouteResolver, calls_in, flatten, router_of, sources_in
from chio_asgi.types import ASGIApp, Scope
from chio_core.errors import ConfigurationError
from chio_core.evaluation.precheck import is_among
from chio_core.models.request import METHODS
from chio_core.models.templates import acceptable_pattern, covers, shape
from chio_core.settings import ChioSettings

_LONGEST = 1_000  # segments
_SAMPLES = ("q7w3x", "7", "7.5", "6a5f0c52-33c4-4a3c-9a4e-6a7d5d3a8c11")
_PARAMETER = re.compile(r"\{([^{}]*)\}")


@runtime_checkable
class ExtensionSource(Protocol):
    """A dependency that states policy in the OpenAPI document."""

    def chio_extensions(self) -> dict[str, Any]:
        """Return its `x-chio-*` members."""
        ...


@dataclass(frozen=True, slots=True)
class ListedRoute:
    """One route.

    Attributes:
        template: its full path template, mounts included, as receipts state it.
        methods: its methods, sorted, as far as the protocol knows them; GET alone for a websocket.
        websocket: it accepts websockets, whose handshake is evaluated as a GET.
        convertors: path convertors by the names of their parameters, those of mounts included.
        route: the framework's route.
        owner: the application whose own OpenAPI document describes the route; None without one.
        local: the template in that document.
        host: a host that leads here; None: any.
    """

    template: str
    methods: tuple[str, ...]
    websocket: bool
    convertors: Mapping[str, Any]
    route: Any
    owner: Any
    local: str
    host: str | None

    @property
    def title(self) -> str:
        """Methods and template, for example `GET|HEAD /pets/{id}`."""
        return f"{'websocket' if self.websocket else '|'.join(self.methods)} {self.template}"


@dataclass(frozen=True, slots=True)
class _Place:
    prefix: str = ""
    convertors: Mapping[str, Any] = field(default_factory=dict)
    host: str | None = None


def list_routes(app: ASGIApp | Any) -> Iterator[ListedRoute]:
    """Yield all routes of an application, in the order in which its router tries them.

    Args:
        app: an application, or middleware around one; without routes, nothing is yielded.

    Raises:
        ConfigurationError: the prefixes of included routers make no path.
    """
    for place, router, route in _walk(router_of(app), _Place(), 0):
        template = getattr(route, "path_format", None)
        if router is None or not isinstance(template, str) or not template:
            continue
        websocket = not hasattr(route, "methods")
        yield ListedRoute(
            template=place.prefix + template,
            methods=("GET",) if websocket else tuple(sorted(METHODS & set(route.methods or METHODS))),
            websocket=websocket,
            convertors={**place.convertors, **getattr(route, "param_convertors", {})},
            route=route,
            owner=router if callable(getattr(router, "openapi", None)) else None,
            local=template,
            host=place.host,
        )


def mount_templates(scope: Scope, app: ASGIApp) -> tuple[str, ...]:
    """Return the templates of the mounts through which requests reach an application; `("",)` if it is not mounted.

    Args:
        scope: of one request, inside all mounts.
        app: the application.
    """
    root, outer = scope.get("root_path") or "", scope.get("app_root_path")
    if outer is None or root == outer:
        return ("",)
    own = _routes_of(app)
    found = tuple(template for template, inner in list_mounts(scope.get("router")) if _routes_of(inner) is own)
    return tuple(dict.fromkeys(found)) or ("",)


def _routes_of(app: Any) -> Any:
    router = router_of(app)
    return getattr(router, "router", router)  # an application has the routes of its router


def list_blind_mounts(app: ASGIApp | Any) -> Iterator[str]:
    """Yield the templates of mounts whose application has no routes to read."""
    return (template for template, inner in list_mounts(app) if router_of(inner) is None)


def list_mounts(app: ASGIApp | Any) -> Iterator[tuple[str, Any]]:
    """Yield (template, application) for each mount and host of an application, nested ones included."""
    for place, router, mount in _walk(router_of(app), _Place(), 0):
        if router is None:
            yield place.prefix + _prefix_of(mount), getattr(mount, "app", None)


def count_governed(app: ASGIApp | Any, settings: ChioSettings) -> int | None:
    """Return the number of an application's routes that are governed; None if it has no routes to read."""
    if not isinstance(getattr(router_of(app), "routes", None), Sequence):
        return None
    governed = (one for one in list_routes(app) if not set(one.methods) <= settings.exclude_methods)
    return sum(not is_among(one.template, settings.exclude_paths, settings.exclude_prefixes) for one in governed)


def extension_sources(route: ListedRoute) -> Iterator[ExtensionSource]:
    """Yield the dependencies of a route that state policy, outermost first."""
    calls = calls_in(getattr(route.route, "dependant", None))
    return (call for call in calls if isinstance(call, ExtensionSource))


def observed_routes(app: Any) -> Iterator[str]:
    """Yield method and template of each route that has an `Observe`, mounted applications included.

    Args:
        app: an application, or middleware around one; without routes, nothing is yielded.
    """
    for one in list_routes(app):
        sources = sources_in(getattr(one.route, "dependant", None))
        if any(getattr(source, "chio_observes", False) for source in sources):
            yield one.title


def _walk(router: Any, place: _Place, depth: int) -> Iterator[tuple[_Place, Any, Any]]:
    """Yield (place, router, route) for each route, and (place, None, mount) for each mount and host."""
    if router is None or depth > MAX_DEPTH:
        return
    try:
        candidates = list(flatten(router.routes))
    except ValueError as exc:  # FastAPI joins the paths of included routers when its routes are read
        raise ConfigurationError(f"the application's routes cannot be read: {exc}") from None
    for candidate in candidates:
        route = getattr(candidate, "starlette_route", None) or candidate
        if not hasattr(route, "routes"):
            yield place, router, route
            continue
        yield place, None, route
        convertors = {name: one for name, one in getattr(route, "param_convertors", {}).items() if name != "path"}
        host = getattr(route, "host_format", None)
        if not isinstance(host, str):
            prefix = place.prefix + _prefix_of(route)
            inner = replace(place, prefix=prefix, convertors={**place.convertors, **convertors})
        elif place.host is not None and route.host_regex.match(place.host):
            inner = place
        else:
            # Parameters of a host are not parameters of a path; any text without a dot can replace them.
            inner = replace(place, host=host.format(**dict.fromkeys(convertors, "host")))
        yield from _walk(router_of(getattr(route, "app", None)), inner, depth + 1)


def _prefix_of(mount: Any) -> str:
    template = getattr(mount, "path_format", None)
    return template.removesuffix("/{path}") if isinstance(template, str) else ""


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


def find_overlaps(
    app: Any, routes: Sequence[ListedRoute], without: Collection[tuple[str, str]] = ()
) -> Iterator[Overlap]:
    """Yield one overlap for each pair of templates and method that has any.

    The router tries its routes in the order in which they were added. The sidecar takes the first template in byte
    order whose segments fit (wire protocol, section 6.2). If the two differ, the receipt names another route than the
    one that would run, and the client refuses it, unless the sidecar's template is literally the path: then the
    request runs under the other route's policy. Each pair of templates that share a path is tried with such a path, on
    the real routes.

    Args:
        app: the application.
        routes: its routes, from `list_routes`.
        without: methods and templates that the sidecar does not know.
    """
    resolve = RouteResolver(app)
    tables = _Tables(routes, without)
    seen: set[tuple[str, str, str]] = set()
    for route in routes:
        headers = [] if route.host is None else [(b"host", route.host.encode())]
        for method in route.methods:
            kind = {"type": "websocket"} if route.websocket else {"type": "http", "method": method}
            for path in dict.fromkeys(_paths(route, method, tables)):
                scope = {**kind, "path": path, "root_path": "", "query_string": b"", "headers": headers}
                template, pattern = resolve(scope).template, tables.match(method, path)
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


def is_reached(app: Any, routes: Sequence[ListedRoute], method: str, path: str) -> bool:
    """Return True if the router chooses a route for its template, which is a path without parameters."""
    resolve = RouteResolver(app)
    for route in routes:
        if route.template == path and method in route.methods:
            kind = {"type": "websocket"} if route.websocket else {"type": "http", "method": method}
            headers = [] if route.host is None else [(b"host", route.host.encode())]
            scope = {**kind, "path": path, "root_path": "", "query_string": b"", "headers": headers}
            if resolve(scope).template == path:
                return True
    return False


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
