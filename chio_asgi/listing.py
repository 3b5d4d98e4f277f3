"""All routes of an application, named as the middleware names them when a request comes.

The way through mounts, hosts and included routers is that of `chio_asgi.routing`, without a request. Shapes are
looked at, not types, so this works with Starlette, FastAPI and whatever resembles them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from chio_asgi.routing import MAX_DEPTH, calls_in, flatten, router_of, sources_in
from chio_asgi.types import ASGIApp
from chio_core.errors import ConfigurationError
from chio_core.evaluation.precheck import is_among
from chio_core.models.request import METHODS
from chio_core.settings import ChioSettings


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
        methods: the protocol's methods that it answers, sorted; GET alone for a websocket.
        websocket: it takes websockets, whose handshake is judged as a GET.
        convertors: path convertors by the names of their parameters, those of mounts included.
        route: the framework's route.
        owner: the application that describes the route in a document of its own; None if none does.
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
        """How people are told of it, for example `GET|HEAD /pets/{id}`."""
        return f"{'websocket' if self.websocket else '|'.join(self.methods)} {self.template}"


@dataclass(frozen=True, slots=True)
class _Place:
    prefix: str = ""
    convertors: Mapping[str, Any] = field(default_factory=dict)
    host: str | None = None


def list_routes(app: ASGIApp | Any) -> Iterator[ListedRoute]:
    """Yield all routes below an application, in the order in which its router asks them.

    Args:
        app: an application, or middleware around one; nothing is yielded for one without routes.

    Raises:
        ConfigurationError: a path cannot be made of the parts that included routers give it.
    """
    for place, router, route in _walk(router_of(app), _Place(), 0):
        template = getattr(route, "path_format", None)
        if router is None or not isinstance(template, str) or not template:
            continue
        described = callable(getattr(router, "openapi", None))
        yield ListedRoute(
            template=place.prefix + template,
            methods=_methods(route),
            websocket=not hasattr(route, "methods"),
            convertors={**place.convertors, **getattr(route, "param_convertors", {})},
            route=route,
            owner=router if described else None,
            local=template,
            host=place.host,
        )


def list_blind_mounts(app: ASGIApp | Any) -> Iterator[str]:
    """Yield the templates of mounts below which there are no routes to look at."""
    for place, router, route in _walk(router_of(app), _Place(), 0):
        if router is None:
            yield place.prefix + _prefix_of(route)


def list_mounts(app: ASGIApp | Any) -> Iterator[tuple[str, Any]]:
    """Yield (template, application) for each mount and host below an application, also those inside of others."""
    yield from _mounts(router_of(app), "", 0)


def count_governed(app: ASGIApp | Any, settings: ChioSettings) -> int | None:
    """Return how many routes of an application are governed; None for one without routes to look at."""
    if not isinstance(getattr(router_of(app), "routes", None), Sequence):
        return None
    governed = (one for one in list_routes(app) if not set(one.methods) <= settings.exclude_methods)
    return sum(not is_among(one.template, settings.exclude_paths, settings.exclude_prefixes) for one in governed)


def extension_sources(route: ListedRoute) -> Iterator[ExtensionSource]:
    """Give the dependencies of a route that state policy, outermost first."""
    calls = calls_in(getattr(route.route, "dependant", None))
    return (call for call in calls if isinstance(call, ExtensionSource))


def _walk(router: Any, place: _Place, depth: int) -> Iterator[tuple[_Place, Any, Any]]:
    """Yield (place, router, route) for each route, and (place, None, mount) for a mount without routes."""
    if router is None or depth > MAX_DEPTH:
        return
    for candidate in _flattened(router):
        route = getattr(candidate, "starlette_route", None) or candidate
        if not hasattr(route, "routes"):
            yield place, router, route
            continue
        below = router_of(getattr(route, "app", None))
        if below is None:
            yield place, None, route
        yield from _walk(below, _inside(place, route), depth + 1)


def _flattened(router: Any) -> list[Any]:
    try:
        return list(flatten(router.routes))
    except ValueError as exc:  # FastAPI puts paths of included routers together when they are asked for
        raise ConfigurationError(f"the application's routes cannot be read: {exc}") from None


def _mounts(router: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if router is None or depth > MAX_DEPTH:
        return
    for candidate in _flattened(router):
        route = getattr(candidate, "starlette_route", None) or candidate
        if hasattr(route, "routes"):
            inner, below = getattr(route, "app", None), prefix + _prefix_of(route)
            yield below, inner
            yield from _mounts(router_of(inner), below, depth + 1)


def _inside(place: _Place, mount: Any) -> _Place:
    convertors = {name: one for name, one in getattr(mount, "param_convertors", {}).items() if name != "path"}
    host = getattr(mount, "host_format", None)
    if isinstance(host, str):
        # Parameters of a host are no parameters of a path; any text without a dot stands for each. A host that has
        # led here and leads on is kept.
        if place.host is not None and mount.host_regex.match(place.host):
            return place
        return replace(place, host=host.format(**dict.fromkeys(convertors, "host")))
    return replace(place, prefix=place.prefix + _prefix_of(mount), convertors={**place.convertors, **convertors})


def _prefix_of(mount: Any) -> str:
    template = getattr(mount, "path_format", None)
    return template.removesuffix("/{path}") if isinstance(template, str) else ""


def _methods(route: Any) -> tuple[str, ...]:
    if not hasattr(route, "methods"):
        return ("GET",)
    return tuple(sorted(METHODS if not route.methods else METHODS & set(route.methods)))


def observed_routes(app: Any) -> Iterator[str]:
    """Yield method and template of each route that bears an `Observe`, mounted applications included.

    Args:
        app: the application, or what stands around it; nothing is yielded for one without routes.
    """
    for one in list_routes(app):
        sources = sources_in(getattr(one.route, "dependant", None))
        if any(getattr(source, "chio_observes", False) for source in sources):
            yield one.title
