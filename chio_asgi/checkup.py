"""Findings about the routes and handlers of an application, without starting it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chio_asgi.decide import EFFECT, REMEDY, named
from chio_asgi.listing import list_blind_mounts, list_mounts, list_routes
from chio_asgi.middleware import ChioASGIMiddleware
from chio_asgi.routing import MAX_DEPTH, router_of
from chio_asgi.send import has_own_500
from chio_core.evaluation.precheck import is_among
from chio_core.guards.chain import Finding
from chio_core.routes.findings import csrf_findings, route_findings
from chio_core.settings import ChioSettings

_NESTED = "governed_twice"


def application_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    """Yield all findings about an application.

    Args:
        app: an application, or middleware around one; without routes, nothing is yielded about them.
        settings: its options.
    """
    if has_own_500(router_of(app)):
        text = (
            "failures are answered outside of all middleware (a handler for 500 or Exception, or debug): "
            "these responses carry neither the receipt header nor the headers of guards"
        )
        yield Finding("WARN", "own_500", text)
    yield from _source_findings(app, settings)
    yield from route_findings(list(list_routes(app)), settings)
    if (layers := _count(app)) > 1:
        yield Finding("WARN", _NESTED, f"{named(router_of(app))} has Chio twice: {EFFECT}; leave one out")
    for prefix, inner in list_mounts(app):
        if layers and _count(inner) and not is_among(prefix, (), settings.exclude_prefixes):
            text = f"{named(router_of(inner))} below {prefix or '/'} has Chio too: {EFFECT}; {REMEDY}"
            yield Finding("WARN", _NESTED, text)
    for prefix in list_blind_mounts(app):
        if not is_among(prefix, (), settings.exclude_prefixes):
            text = f"what runs below {prefix or '/'} has no routes to read, so its plain path is evaluated"
            yield Finding("WARN", "route_pattern", text)


def _source_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    layers = list(_layers(app))
    names = [getattr(one, "__name__", "") for one in layers]
    remedy = "add one (starlette-csrf has a middleware), and set the cookie with SameSite=Lax"
    yield from csrf_findings(settings, any("csrf" in name.lower() for name in names), remedy)
    at = next((place for place, one in enumerate(layers) if _is_ours(one)), len(layers))
    if settings.capability_source.startswith("session") and "SessionMiddleware" in names[at:]:
        text = (
            "capability_source is session, and SessionMiddleware is inside Chio: add it after Chio, or requests get 500"
        )
        yield Finding("ERROR", "session_inside", text)


def _count(app: Any) -> int:
    """Return the number of Chio's middleware in and around an application, mounts not included."""
    return sum(map(_is_ours, _layers(app)))


def _is_ours(layer: Any) -> bool:
    return isinstance(layer, type) and issubclass(layer, ChioASGIMiddleware)


def _layers(app: Any) -> Iterator[Any]:
    """Yield the classes (or factories) of an application and its middleware, outermost first."""
    for _ in range(MAX_DEPTH):
        if app is None:
            break
        yield type(app)
        yield from (getattr(layer, "cls", None) for layer in getattr(app, "user_middleware", ()))
        app = getattr(app, "app", None)
