"""The routes of an application, listed without a request, and the OpenAPI document for a sidecar that is made of them.

Templates and requirements are those that `chio_asgi.routing` finds for a request: mounts, hosts and included routers
are entered in the same way. Attributes are read, not types, so this works with Starlette, FastAPI and look-alikes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from chio_asgi.routing import MAX_DEPTH, RouteResolver, calls_in, flatten, router_of
from chio_asgi.types import ASGIApp, Scope
from chio_core.errors import ConfigurationError
from chio_core.evaluation.precheck import is_among
from chio_core.models.request import METHODS
from chio_core.routes import document
from chio_core.routes.document import Document
from chio_core.routes.listing import ExtensionSource, ListedRoute
from chio_core.settings import ChioSettings


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
    resolver = RouteResolver(app)
    for place, router, route in _walk(router_of(app), _Place(), 0):
        template = getattr(route, "path_format", None)
        if router is None or not isinstance(template, str) or not template:
            continue
        websocket, dependant = not hasattr(route, "methods"), getattr(route, "dependant", None)
        yield ListedRoute(
            template=place.prefix + template,
            methods=("GET",) if websocket else tuple(sorted(METHODS & set(route.methods or METHODS))),
            resolve=partial(_resolved, resolver, websocket, place.host),
            sources=tuple(call for call in calls_in(dependant) if isinstance(call, ExtensionSource)),
            name=getattr(route, "name", None) or "",
            websocket=websocket,
            convertors={**place.convertors, **getattr(route, "param_convertors", {})},
            route=route,
            owner=router if callable(getattr(router, "openapi", None)) else None,
            local=template,
            host=place.host,
        )


def _resolved(resolver: RouteResolver, websocket: bool, host: str | None, method: str, path: str) -> str | None:
    kind = {"type": "websocket"} if websocket else {"type": "http", "method": method}
    headers = [] if host is None else [(b"host", host.encode())]
    return resolver({**kind, "path": path, "root_path": "", "query_string": b"", "headers": headers}).template


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


def observed_routes(app: Any) -> Iterator[str]:
    """Yield method and template of each route that has an `Observe`, mounted applications included.

    Args:
        app: an application, or middleware around one; without routes, nothing is yielded.
    """
    return (one.title for one in list_routes(app) if any(getattr(it, "chio_observes", False) for it in one.sources))


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


def document_for(app: Any) -> str:
    """Return the document of an application as JSON: the output of `chio-sidecar openapi`.

    Args:
        app: a FastAPI or Starlette application, or the middleware around one.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    return describe(app).text


def describe(app: Any, mounts: Sequence[str] = ("",)) -> Document:
    """Return the document of an application, with findings.

    Args:
        app: a FastAPI or Starlette application, or the middleware around one.
        mounts: templates of the mounts through which requests reach the application. Findings name its own templates.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    routes = list(list_routes(app))
    if not routes:
        raise ConfigurationError("the application has no routes to read; name a FastAPI or Starlette application")
    title = getattr(routes[0].owner, "title", None)
    name = title if isinstance(title, str) else "application"
    return document.describe(routes, title=name, mounts=mounts, blind=list_blind_mounts(app))
