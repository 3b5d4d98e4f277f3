"""Which route will run: found before the application is called, in the same way as its router finds it.

A middleware sees a request before the router does, so the route template and the requirements of the route have
to be looked up here. The look-up asks the same route objects the same question (`route.matches(scope)`), in the
same order: the first full match wins, else the first partial one (which ends in 405). It goes through mounts,
hosts and the routers that FastAPI nests since 0.137, and knows these by their shape, not by import: this package
works with any ASGI application, and without routes to ask there is simply no template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chio_asgi.types import ASGIApp, Scope
from chio_core.evaluation.governed import NO_MATCH, RouteMatch
from chio_core.evaluation.requirements import RequirementSource

MAX_DEPTH = 64
"""Mounts and layers of middleware to look through; an application may be mounted in itself."""

_FULL, _PARTIAL = 2, 1
_MAX_KNOWN = 4096


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
        root, outer = scope.get("root_path") or "", scope.get("app_root_path")
        mounted = outer is not None and root != outer
        router = router_of(self._app)
        if router is None and not mounted:
            router = router_of(scope.get("app"))
        if router is None:
            return NO_MATCH
        prefix: str | None = ""
        if mounted:
            # Inside a mount its prefix is in `root_path` as it was spelled. If it had parameters, the template is
            # unknown here.
            prefix = None if scope.get("path_params") else root.removeprefix(outer or "")
        return self._search(router, dict(scope), prefix, 0)

    def _search(self, router: Any, scope: dict[str, Any], prefix: str | None, depth: int) -> RouteMatch:
        if depth > MAX_DEPTH:
            return NO_MATCH
        partial: tuple[Any, Mapping[str, Any]] | None = None
        for route in flatten(router.routes):
            level, child = _matches(route, scope)
            if level == _FULL:
                partial = (route, child)
                break
            if level == _PARTIAL and partial is None:
                partial = (route, child)
        if partial is None:
            return NO_MATCH
        route, child = partial
        route = getattr(route, "starlette_route", None) or route
        template = getattr(route, "path_format", None)
        if "root_path" in child or not isinstance(template, str) or not template:
            return self._enter(route, template, {**scope, **child}, prefix, depth)
        params = child.get("path_params") or {}
        full = prefix + template if prefix is not None else None
        return RouteMatch(full, params, self._sources(route, router))

    def _enter(
        self, mount: Any, template: str | None, scope: dict[str, Any], prefix: str | None, depth: int
    ) -> RouteMatch:
        router = router_of(getattr(mount, "app", None))
        if router is None:
            return NO_MATCH
        if root := own_root_path(router):
            scope["root_path"] = root
        if prefix is not None and isinstance(template, str):
            prefix += template.removesuffix("/{path}")
        return self._search(router, scope, prefix, depth + 1)

    def _sources(self, route: Any, router: Any) -> tuple[RequirementSource, ...]:
        dependant = getattr(route, "dependant", None)
        if dependant is None:
            return ()
        known = self._known.get(id(dependant))
        if known is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            # The dependant is kept beside its findings, so that its id cannot come to mean another one.
            known = self._known[id(dependant)] = (dependant, tuple(sources_in(dependant)))
        overrides = _overrides(route, router)
        if not overrides:
            return known[1]
        return tuple(source for source in known[1] if source not in overrides)


def router_of(app: Any) -> Any:
    """Return the object with the routes: the application, or the one inside its middleware, or None."""
    layers = MAX_DEPTH
    while layers and app is not None:
        if getattr(app, "routes", None) is not None:
            return app
        app = getattr(app, "app", None)
        layers -= 1
    return None


def own_root_path(app: Any) -> str:
    """Return the root path that an application sets on the scope when it is called (`FastAPI(root_path=…)`)."""
    root = getattr(app, "root_path", None)
    return root if isinstance(root, str) else ""


def _overrides(route: Any, router: Any) -> Mapping[Any, Any] | None:
    # FastAPI's HTTP routes know whose overrides count for them; its websocket routes do not say.
    provider = getattr(route, "dependency_overrides_provider", None)
    provider = provider or getattr(router, "dependency_overrides_provider", None) or router
    found: Mapping[Any, Any] | None = getattr(provider, "dependency_overrides", None)
    return found


def flatten(routes: Sequence[Any]) -> Iterator[Any]:
    """Yield the routes of a router in the order in which they are asked, included routers taken apart."""
    # A router that FastAPI includes is one entry of the list; its candidates, prefixes applied, replace it. The first
    # match in this order is the first match in the nested order.
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


def sources_in(dependant: Any) -> Iterator[RequirementSource]:
    """Give the dependencies that ask for something, outermost first; see `calls_in`."""
    return (call for call in calls_in(dependant) if isinstance(call, RequirementSource))


def calls_in(dependant: Any) -> Iterator[Any]:
    """Yield what the dependencies of a route call, outermost first; `dependant` is FastAPI's own of that route."""
    yield getattr(dependant, "call", None)
    for inner in getattr(dependant, "dependencies", ()):
        yield from calls_in(inner)
