"""What routes ask for, looked at without traffic: what can never work, what limits nothing, what asks for nothing.

Dependencies are known by what they have (`amount`, `cost`, `limits`), not by import: those of FastAPI stand further
out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from chio_asgi.listing import ListedRoute, list_routes
from chio_asgi.routing import RequirementSource, sources_in
from chio_core.evaluation.amounts import FromPath
from chio_core.guards.chain import Finding
from chio_core.evaluation.precheck import is_among
from chio_core.models.openapi import OBSERVE, SENSITIVITY
from chio_core.models.demands import BudgetDemand
from chio_core.settings import ChioSettings

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def demand_findings(app: Any, settings: ChioSettings) -> Iterator[Finding]:
    """Yield what can be seen of the demands of an application's routes.

    Args:
        app: an application, or what stands around it; nothing is yielded for one without routes.
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
    """Tell whether a dependency asks for something, or says on purpose whether its route changes anything."""
    stated = getattr(source, "chio_extensions", None)
    return stated is None or not set(stated()) <= {OBSERVE, SENSITIVITY}
