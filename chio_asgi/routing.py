"""Which route will run: found before the application is called, in the same way as its router finds it.

A middleware sees a request before the router does, so the route template and the requirements of the route have
to be looked up here. The look-up asks the same route objects the same question (`route.matches(scope)`), in the
same order: the first full match wins, else the first partial one (which ends in 405). It goes through mounts,
hosts and the routers that FastAPI nests since 0.137, and knows these by their shape, not by import: this package
works with any ASGI application, and without routes to ask there is simply no template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from chio_asgi.types import ASGIApp, Scope
from chio_core.request import Requirement

_FULL, _PARTIAL = 2, 1
_MAX_DEPTH = 64
_MAX_KNOWN = 4096


@runtime_checkable
class RequirementSource(Protocol):
    """A dependency that asks for a capability."""

    def chio_requirement(self, path_params: Mapping[str, Any]) -> Requirement:
        """Return what it asks for, given the route's path parameters."""
        ...


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """The route that will run.

    Attributes:
        template: its full path template, parameters as `{name}`; None when no route, or nobody, can tell.
        path_params: converted path parameters.
        sources: dependencies of the route that ask for a capability, outermost first.
    """

    template: str | None = None
    path_params: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[RequirementSource, ...] = ()

    def requirement(self) -> Requirement | None:
        """Return what the route asks for: the most specific of its requirements.

        The wire carries one tool; further requirements of the same route are asked for by their dependencies.
        """
        wanted = [source.chio_requirement(self.path_params) for source in self.sources]
        return next((one for one in wanted if one.server is not None), wanted[0] if wanted else None)


NO_MATCH = RouteMatch()


class RouteResolver:
    """Finds the route for a scope.

    Args:
        app: the application inside the middleware; its routes are looked for along the chain of `.app`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._known: dict[int, tuple[Any, tuple[RequirementSource, ...]]] = {}

    def __call__(self, scope: Scope) -> RouteMatch:
        """Return the match for an http or websocket scope; `scope` is not changed."""
        routes = _routes_of(self._app)
        if routes is None:
            routes = getattr(scope.get("app"), "routes", None)
        if routes is None:
            return NO_MATCH
        root = scope.get("root_path", "") or ""
        outer = scope.get("app_root_path", root) or ""
        prefix = root[len(outer) :] if root.startswith(outer) else ""
        return self._search(routes, dict(scope), prefix, 0)

    def _search(self, routes: Sequence[Any], scope: dict[str, Any], prefix: str, depth: int) -> RouteMatch:
        if depth > _MAX_DEPTH:
            return NO_MATCH
        partial: tuple[Any, Mapping[str, Any]] | None = None
        for route in _flatten(routes):
            level, child = _matches(route, scope)
            if level == _FULL:
                return self._found(route, scope, child, prefix, depth)
            if level == _PARTIAL and partial is None:
                partial = (route, child)
        if partial is not None:
            return self._found(partial[0], scope, partial[1], prefix, depth)
        return NO_MATCH

    def _found(
        self, route: Any, scope: dict[str, Any], child: Mapping[str, Any], prefix: str, depth: int
    ) -> RouteMatch:
        route = getattr(route, "starlette_route", None) or route
        template = getattr(route, "path_format", None)
        if "root_path" in child or not isinstance(template, str) or not template:
            inner = _routes_of(getattr(route, "app", None))
            if inner is None:
                return NO_MATCH
            mount = template.removesuffix("/{path}") if isinstance(template, str) else ""
            return self._search(inner, {**scope, **child}, prefix + mount, depth + 1)
        params = child.get("path_params") or {}
        return RouteMatch(prefix + template, params, self._sources(route))

    def _sources(self, route: Any) -> tuple[RequirementSource, ...]:
        dependant = getattr(route, "dependant", None)
        if dependant is None:
            return ()
        known = self._known.get(id(dependant))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            # The dependant is kept beside its findings, so that its id cannot come to mean another one.
            known = self._known[id(dependant)] = (dependant, tuple(_walk(dependant)))
        overrides = getattr(getattr(route, "dependency_overrides_provider", None), "dependency_overrides", None)
        if not overrides:
            return known[1]
        return tuple(source for source in known[1] if source not in overrides)


def _routes_of(app: Any) -> Sequence[Any] | None:
    for _ in range(_MAX_DEPTH):
        if app is None:
            return None
        routes = getattr(app, "routes", None)
        if routes is not None:
            return routes  # type: ignore[no-any-return]
        app = getattr(app, "app", None)
    return None


def _flatten(routes: Sequence[Any]) -> Iterator[Any]:
    # A router that FastAPI includes stands in the list as one entry; its candidates, prefixes applied, take its
    # place. First match in this order is first match in the nested order.
    for route in routes:
        contexts = getattr(route, "effective_route_contexts", None)
        if contexts is None:
            yield route
        else:
            yield from contexts()


def _matches(route: Any, scope: dict[str, Any]) -> tuple[int, Mapping[str, Any]]:
    original = getattr(route, "original_route", None)
    if original is None or getattr(route, "starlette_route", None) is not None:
        match, child = route.matches(scope)
    else:
        # An included APIRoute answers for its place in the tree when the scope names that place, and a subclass
        # may have a `matches` of its own.
        scope["fastapi"] = {**scope.get("fastapi", {}), "effective_route_context": route}
        match, child = original.matches(scope)
    return match.value, child


def _walk(dependant: Any) -> Iterator[RequirementSource]:
    call = getattr(dependant, "call", None)
    if isinstance(call, RequirementSource):
        yield call
    for inner in getattr(dependant, "dependencies", ()):
        yield from _walk(inner)
