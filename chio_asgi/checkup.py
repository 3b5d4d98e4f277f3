"""Findings about the routes and handlers of an application, without starting it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from chio_asgi.decide import EFFECT, REMEDY, named
from chio_asgi.document import overlap_findings
from chio_asgi.listing import list_blind_mounts, list_mounts, list_routes, observed_routes
from chio_asgi.middleware import ChioASGIMiddleware
from chio_asgi.routing import MAX_DEPTH, router_of, sources_in
from chio_asgi.send import has_own_500
from chio_core.evaluation.amounts import FromPath
from chio_core.evaluation.precheck import is_among
from chio_core.guards.chain import Finding
from chio_core.models.demands import BudgetDemand
from chio_core.models.openapi import OBSERVE, SENSITIVITY
from chio_core.settings import ChioSettings

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})

_NESTED = "governed_twice"


def demand_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    """Yield findings about the requirements of an application's routes.

    Args:
        app: an application, or middleware around one; without routes, nothing is yielded.
        settings: its options; an excluded path or method needs no requirement.
    """
    free = []
    for route in list_routes(app):
        sources = list(sources_in(getattr(route.route, "dependant", None)))
        for source in sources:
            # The parameters of a host are among the path's in a request, but not in the list of routes.
            for option in ("amount", "cost") if route.host is None else ():
                value = getattr(source, option, None)
                if isinstance(value, FromPath) and value.name not in route.convertors:
                    known = ", ".join(sorted(route.convertors)) or "none"
                    text = (
                        f"{route.title}: {type(source).__name__}({option}=from_path({value.name!r})) names no parameter"
                        f" of the path (it has: {known}), so every request is refused"
                    )
                    yield Finding("ERROR", "unknown_parameter", text)
            limits = getattr(source, "limits", None)
            if isinstance(limits, BudgetDemand) and limits == BudgetDemand(limits.cost, limits.currency):
                text = f"{route.title}: {type(source).__name__} has no limit, so it counts and refuses nothing"
                yield Finding("WARN", "budget_without_limit", text)
        writes = sorted(WRITES.intersection(route.methods) - settings.exclude_methods)
        if not writes or is_among(route.template, settings.exclude_paths, settings.exclude_prefixes):
            continue
        # A dependency that states nothing but Observe or a sensitivity leaves open what the route requires.
        stated = [getattr(source, "chio_extensions", None) for source in sources]
        if all(state is not None and set(state()) <= {OBSERVE, SENSITIVITY} for state in stated):
            free.append(f"{'|'.join(writes)} {route.template}")
    if free:
        text = f"routes that write and state no requirement, so any valid capability opens them: {', '.join(free)}"
        yield Finding("INFO", "no_requirement", text)


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
    yield from overlap_findings(app)
    if (layers := _count(app)) > 1:
        yield Finding("WARN", _NESTED, f"{named(router_of(app))} has Chio twice: {EFFECT}; leave one out")
    for prefix, inner in list_mounts(app):
        if layers and _count(inner) and not is_among(prefix, (), settings.exclude_prefixes):
            text = f"{named(router_of(inner))} below {prefix or '/'} has Chio too: {EFFECT}; {REMEDY}"
            yield Finding("WARN", _NESTED, text)
    for name in observed_routes(app):
        yield Finding("WARN", "observe", f"a refusal on {name} is recorded and the request runs nevertheless (Observe)")
    yield from demand_findings(app, settings)
    for prefix in list_blind_mounts(app):
        if not is_among(prefix, (), settings.exclude_prefixes):
            text = f"what runs below {prefix or '/'} has no routes to read, so its plain path is evaluated"
            yield Finding("WARN", "route_pattern", text)


def _count(app: Any) -> int:
    """Return the number of Chio's middleware in and around an application, mounts not included."""
    found = 0
    for _ in range(MAX_DEPTH):
        if app is None:
            break
        found += isinstance(app, ChioASGIMiddleware)
        classes = [getattr(layer, "cls", None) for layer in getattr(app, "user_middleware", ())]
        found += sum(isinstance(one, type) and issubclass(one, ChioASGIMiddleware) for one in classes)
        app = getattr(app, "app", None)
    return found
