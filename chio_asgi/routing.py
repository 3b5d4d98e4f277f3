"""Find the route that will run before the application is called, in the same way as its router.

A middleware sees a request before the router does, so it has to look up the route's template and requirements. It calls
`route.matches(scope)` of the same route objects in the same order: the first full match wins, else the first partial
one (which ends in 405). Mounts, hosts and the routers that FastAPI nests since 0.137 are entered; they are known by
their attributes, not by import, because this package works with any ASGI application. Without routes there is no
template.

`RouteTable` leaves out a route only if its `matches` is Starlette's or FastAPI's own, which compares the path with the
regular expression of the route, and that expression cannot match (`chio_core.routes.index`). A router may get other
routes at any time: then its table is made again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from chio_asgi.types import ASGIApp, Scope
from chio_core.evaluation.governed import NO_MATCH, RouteMatch
from chio_core.evaluation.requirements import RequirementSource
from chio_core.refusals.response import RequestRefused, bad_request
from chio_core.routes.index import PathIndex, uses_only

_FEW = 4
"""So many routes are tried sooner than looked up."""

_FRAMEWORKS = frozenset({"starlette.routing", "fastapi.routing"})
_NAMES = frozenset(
    (  # noqa: SIM905 - one name a line is longer
        "APIRoute FULL Match NONE NotImplementedError PARTIAL _FrontendRouteGroup _get_scope_effective_route_context"
        " app convert dict endpoint frontend_prefix get get_route_path groupdict isinstance items len match matches"
        " matches_with_prefix methods original_route param_convertors path_regex pop starlette_route super update"
    ).split()
)
"""The names in the code of the frameworks' `matches`. Code with another name may match in another way."""


class RouteTable:
    """The routes of a router as they are when the table is made.

    An entry that is replaced by an equal one, which has the same path, methods and endpoint, leaves the table as it is;
    the new entry is tried.

    Args:
        routes: the router's list, in which an included router is one entry.
    """

    def __init__(self, routes: Sequence[Any]) -> None:
        self._routes = list(routes)
        self._included = [(router, list(router.routes)) for router in _included(routes)]
        # By place in the list; beside it the candidate of an included router.
        self._flat = [
            (number, None if one is entry else one) for number, entry in enumerate(routes) for one in flatten([entry])
        ]
        self._few = len(routes) <= _FEW and not self._included
        self._index: PathIndex | None = None
        self._used = False

    def describes(self, routes: Sequence[Any]) -> bool:
        """Return True if a router's list still has these entries, and the routers that it includes have theirs."""
        if self._routes != routes:
            return False
        return not self._included or all(router.routes == known for router, known in self._included)

    def candidates(self, routes: Sequence[Any], scope: Scope) -> Iterable[Any]:
        """Return the routes that can match, in the router's order.

        Args:
            routes: the router's list, which this describes.
            scope: as the router's routes will see it.
        """
        if self._few:
            return routes
        found: Iterable[tuple[int, Any]] = self._flat
        route_path = getattr(sys.modules.get("starlette.routing"), "get_route_path", None)
        # An index is not made for a list that is only seen once: a router may make a new one for each request.
        if self._used and route_path is not None:
            if self._index is None:
                self._index = PathIndex(
                    _pattern_of(routes[number] if one is None else one) for number, one in self._flat
                )
            found = [self._flat[number] for number in self._index.candidates(route_path(scope))]
        self._used = True
        return [routes[number] if one is None else one for number, one in found]


def flatten(routes: Sequence[Any]) -> Iterator[Any]:
    """Yield the routes of a router in the order in which they are tried, those of included routers among them."""
    # A router that FastAPI includes is one entry of the list; its candidates, with their prefixes, replace it. The
    # first match in this order is the first match in the nested order.
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
        else:
            yield from contexts()


def _included(routes: Sequence[Any]) -> Iterator[Any]:
    """Yield each router that these routes include. FastAPI makes its candidates from the routes of that router."""
    for entry in routes:
        if hasattr(entry, "effective_route_contexts"):
            yield entry.original_router
            yield from _included(entry.original_router.routes)


def _pattern_of(candidate: Any) -> re.Pattern[str] | None:
    """Return the expression without which a route cannot match; None if it has to be asked."""
    original = getattr(candidate, "original_route", None)
    starlette_route = getattr(candidate, "starlette_route", None)
    matching = starlette_route if starlette_route is not None else candidate
    asked = (matching, candidate if original is None else original)
    pattern = getattr(matching, "path_regex", None)
    return pattern if isinstance(pattern, re.Pattern) and all(map(_matches_by_path, asked)) else None


def _matches_by_path(route: Any) -> bool:
    found = [vars(one)["matches"] for one in type(route).__mro__ if "matches" in vars(one)]
    return "matches" not in getattr(route, "__dict__", {}) and all(
        one.__module__ in _FRAMEWORKS and uses_only(one, _NAMES) for one in found
    )


MAX_DEPTH = 64
"""Limit of nested mounts and layers of middleware: an application may be mounted in itself."""

_FULL, _PARTIAL = 2, 1
_MAX_KNOWN = 4096


class RouteResolver:
    """Finds the route for a scope.

    Args:
        app: the application inside the middleware; its routes are found along the chain of `.app`.

    Attributes:
        router: what has the routes, from the start on; None for an application without routes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.router = router_of(app)
        self._tables: dict[int, tuple[Any, RouteTable]] = {}
        self._known: dict[int, tuple[Any, tuple[RequirementSource, ...]]] = {}

    def __call__(self, scope: Scope) -> RouteMatch:
        """Return the match for an http or websocket scope; `scope` is not changed.

        Raises:
            RequestRefused: 400, a path parameter cannot be converted; the router would fail too.
        """
        root, outer = scope.get("root_path") or "", scope.get("app_root_path")
        mounted = outer is not None and root != outer
        router = self.router
        if router is None and not mounted and "app" in scope:
            router = router_of(scope["app"])
        if router is None:
            return NO_MATCH
        prefix: str | None = ""
        if mounted:
            # This middleware is inside a mount, which has left its prefix here as it was in the URL. If the prefix has
            # parameters, its template is unknown here.
            prefix = None if scope.get("path_params") else root.removeprefix(outer or "")
        try:
            return self._search(router, dict(scope), prefix, 0)
        except ValueError as exc:  # for example a number of more digits than Python converts
            raise RequestRefused(bad_request("a path parameter cannot be converted")) from exc

    def _search(self, router: Any, scope: dict[str, Any], prefix: str | None, depth: int) -> RouteMatch:
        if router is None or depth > MAX_DEPTH:
            return NO_MATCH
        chosen: tuple[Any, Mapping[str, Any]] | None = None
        for candidate in self._candidates(router, scope):
            original = getattr(candidate, "original_route", None)
            if original is None or getattr(candidate, "starlette_route", None) is not None:
                match, child = candidate.matches(scope)
            else:
                # An included APIRoute matches for its place in the tree if the scope names that place, and a
                # subclass may override `matches`.
                scope["fastapi"] = {**scope.get("fastapi", {}), "effective_route_context": candidate}
                match, child = original.matches(scope)
            if match.value == _FULL:
                chosen = (candidate, child)
                break
            if match.value == _PARTIAL and chosen is None:
                chosen = (candidate, child)
        if chosen is None:
            return NO_MATCH

        route, child = getattr(chosen[0], "starlette_route", None) or chosen[0], chosen[1]
        template = getattr(route, "path_format", None)
        if "root_path" not in child and isinstance(template, str) and template:
            full = prefix + template if prefix is not None else None
            own = getattr(route, "original_route", None) or route
            return RouteMatch(full, child.get("path_params") or {}, self._sources(route, router), own)

        # A mount or a host: go on inside, with the scope that its application would get.
        inner, below = router_of(getattr(route, "app", None)), {**scope, **child}
        if root := own_root_path(inner):
            below["root_path"] = root
        if prefix is not None and isinstance(template, str):
            prefix += template.removesuffix("/{path}")
        return self._search(inner, below, prefix, depth + 1)

    def _candidates(self, router: Any, scope: Scope) -> Iterable[Any]:
        routes = router.routes
        if not isinstance(routes, list):
            return flatten(routes)
        known = self._tables.get(id(router))
        if known is None or not known[1].describes(routes):
            if len(self._tables) >= _MAX_KNOWN:
                self._tables.clear()
            try:
                table = RouteTable(routes)
            except AttributeError:  # an entry includes routes in another way than FastAPI's routers
                return flatten(routes)
            # The router is kept beside its table, so that its id cannot be reused for another one.
            known = self._tables[id(router)] = (router, table)
        return known[1].candidates(routes, scope)

    def _sources(self, route: Any, router: Any) -> tuple[RequirementSource, ...]:
        dependant = getattr(route, "dependant", None)
        if dependant is None:
            return ()
        # FastAPI's HTTP routes name the application whose overrides apply; its websocket routes do not.
        provider = getattr(route, "dependency_overrides_provider", None)
        provider = provider or getattr(router, "dependency_overrides_provider", None) or router
        if overrides := getattr(provider, "dependency_overrides", None):
            return tuple(sources_in(dependant, overrides))
        known = self._known.get(id(dependant))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            # The dependant is kept beside its sources, so that its id cannot be reused for another one.
            known = self._known[id(dependant)] = (dependant, tuple(sources_in(dependant)))
        return known[1]


def router_of(app: Any) -> Any:
    """Return what has Starlette's routes: the application, or the one inside its middleware; None without them."""
    layers = MAX_DEPTH
    while layers and app is not None:
        # Litestar has `routes` too, of another kind. What has the routes of Starlette can also make their URLs.
        if getattr(app, "routes", None) is not None and hasattr(app, "url_path_for"):
            return app
        app = getattr(app, "app", None)
        layers -= 1
    return None


def own_root_path(app: Any) -> str:
    """Return the root path that an application sets on the scope when it is called (`FastAPI(root_path=…)`)."""
    root = getattr(app, "root_path", None)
    return root if isinstance(root, str) else ""


def sources_in(dependant: Any, overrides: Mapping[Any, Any] | None = None) -> Iterator[RequirementSource]:
    """Yield the dependencies that state a requirement, outermost first; see `calls_in`."""
    return (call for call in calls_in(dependant, overrides) if isinstance(call, RequirementSource))


def calls_in(dependant: Any, overrides: Mapping[Any, Any] | None = None) -> Iterator[Any]:
    """Yield the callables of a route's dependencies, outermost first.

    Args:
        dependant: FastAPI's of that route.
        overrides: `dependency_overrides` of the application. An override replaces a dependency together with all
            below it, and has its own dependencies.
    """
    yield getattr(dependant, "call", None)
    for inner in getattr(dependant, "dependencies", ()):
        if overrides and (call := getattr(inner, "call", None)) in overrides:
            # This module imports no framework, but FastAPI, which made the dependant, is loaded.
            utilities = sys.modules["fastapi.dependencies.utils"]
            inner = utilities.get_dependant(path=inner.path, call=overrides[call])
        yield from calls_in(inner, overrides)
