"""What an application's routes and handlers have to tell people who look at it before they deploy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from chio_asgi.decide import EFFECT, REMEDY, named
from chio_asgi.document import overlap_findings
from chio_asgi.listing import ListedRoute, list_blind_mounts, list_mounts, list_routes, observed_routes
from chio_asgi.middleware import ChioASGIMiddleware
from chio_asgi.routing import MAX_DEPTH, router_of, sources_in
from chio_asgi.send import has_own_500
from chio_core.evaluation.amounts import FromPath
from chio_core.evaluation.precheck import is_among
from chio_core.evaluation.requirements import RequirementSource
from chio_core.guards.chain import Finding
from chio_core.models.demands import BudgetDemand
from chio_core.models.openapi import OBSERVE, SENSITIVITY
from chio_core.settings import ChioSettings

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def demand_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    """Yield what can be seen of the demands of an application's routes.

    Args:
        app: an application, or middleware around it; nothing is yielded for one without routes.
        settings: its options; what is excluded altogether is asked for nothing.
    """
    free = []
    for route in list_routes(app):
        sources = list(sources_in(getattr(route.route, "dependant", None)))
        for source in sources:
            yield from _unknown_parameter(route, source)
            yield from _no_limit(route, source)
        writes = sorted(WRITES.intersection(route.methods) - settings.exclude_methods)
        excluded = is_among(route.template, settings.exclude_paths, settings.exclude_prefixes)
        if writes and not excluded and not any(map(_demands, sources)):
            free.append(f"{'|'.join(writes)} {route.template}")
    if free:
        text = f"routes that write and state no requirement, so any valid capability opens them: {', '.join(free)}"
        yield Finding("INFO", "no_requirement", text)


def _unknown_parameter(route: ListedRoute, source: RequirementSource) -> Iterator[Finding]:
    if route.host is not None:
        return  # parameters of a host are among the path's when a request comes, and are not listed
    for option in ("amount", "cost"):
        named = getattr(source, option, None)
        if isinstance(named, FromPath) and named.name not in route.convertors:
            known = ", ".join(sorted(route.convertors)) or "none"
            text = (
                f"{route.title}: {type(source).__name__}({option}=from_path({named.name!r})) names no parameter of the"
                f" path (it has: {known}), so every request is refused"
            )
            yield Finding("ERROR", "unknown_parameter", text)


def _no_limit(route: ListedRoute, source: RequirementSource) -> Iterator[Finding]:
    limits = getattr(source, "limits", None)
    if not isinstance(limits, BudgetDemand):
        return
    if (limits.max_invocations, limits.max_cost_per_invocation, limits.max_total_cost) == (None, None, None):
        text = f"{route.title}: {type(source).__name__} has no limit, so it counts and refuses nothing"
        yield Finding("WARN", "budget_without_limit", text)


def _demands(source: RequirementSource) -> bool:
    """Return True if a dependency asks for something, or says on purpose whether its route changes anything."""
    stated = getattr(source, "chio_extensions", None)
    return stated is None or not set(stated()) <= {OBSERVE, SENSITIVITY}


_NESTED = "governed_twice"


def application_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    """Yield what can be seen of an application without starting it.

    Args:
        app: an application, or middleware around it; nothing is yielded for one without routes.
        settings: its options; what is excluded altogether is not judged by any path.
    """
    yield from _own_500(router_of(app))
    yield from overlap_findings(app)
    yield from _nested(app, settings)
    for name in observed_routes(app):
        yield Finding("WARN", "observe", f"what is refused on {name} is recorded and runs nevertheless (Observe)")
    yield from demand_findings(app, settings)
    for prefix in list_blind_mounts(app):
        if not is_among(prefix, (), settings.exclude_prefixes):
            text = f"what runs below {prefix or '/'} has no routes to look at, so it is judged by its plain path"
            yield Finding("WARN", "route_pattern", text)


def _nested(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    own = _count(app)
    if own > 1:
        yield Finding("WARN", _NESTED, f"{named(router_of(app))} has Chio twice: {EFFECT}; leave one out")
    for prefix, inner in list_mounts(app):
        if own and _count(inner) and not is_among(prefix, (), settings.exclude_prefixes):
            text = f"{named(router_of(inner))} below {prefix or '/'} has Chio too: {EFFECT}; {REMEDY}"
            yield Finding("WARN", _NESTED, text)


def _count(app: Any) -> int:
    found = 0
    for _ in range(MAX_DEPTH):
        if app is None:
            break
        found += isinstance(app, ChioASGIMiddleware)
        classes = [getattr(layer, "cls", None) for layer in getattr(app, "user_middleware", ())]
        found += sum(isinstance(one, type) and issubclass(one, ChioASGIMiddleware) for one in classes)
        app = getattr(app, "app", None)
    return found


def _own_500(app: Any) -> Iterator[Finding]:
    if has_own_500(app):
        text = (
            "failures are answered outside of all middleware (a handler for 500 or Exception, or debug): "
            "these answers carry neither the receipt header nor the headers of guards"
        )
        yield Finding("WARN", "own_500", text)
