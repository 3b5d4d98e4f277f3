"""Findings about the routes of an application, before it is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from chio_core.evaluation.amounts import FromPath
from chio_core.evaluation.precheck import is_among
from chio_core.evaluation.requirements import RequirementSource
from chio_core.guards.chain import Finding
from chio_core.models.demands import BudgetDemand
from chio_core.models.openapi import OBSERVE, SENSITIVITY
from chio_core.routes.document import OVERLAPPING, describe
from chio_core.routes.listing import ListedRoute
from chio_core.settings import ChioSettings

WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def overlap_findings(routes: Sequence[ListedRoute]) -> Iterator[Finding]:
    """Yield a finding for each pair of templates between which router and sidecar would choose differently.

    Args:
        routes: all routes of an application; without any, nothing is yielded.

    Raises:
        ConfigurationError: the application's own document cannot be made.
    """
    if routes:
        yield from (one for one in describe(routes).findings if one.category == OVERLAPPING)


def route_findings(routes: Sequence[ListedRoute], settings: ChioSettings) -> Iterator[Finding]:
    """Yield findings about the routes of an application: overlaps, requirements that cannot be met, and none.

    Args:
        routes: all its routes.
        settings: its options; an excluded path or method needs no requirement.
    """
    yield from overlap_findings(routes)
    for route in routes:
        if any(getattr(source, "chio_observes", False) for source in route.sources):
            text = f"a refusal on {route.title} is recorded and the request runs nevertheless (Observe)"
            yield Finding("WARN", "observe", text)
    free, open_sockets = [], []
    for route in routes:
        sources = [source for source in route.sources if isinstance(source, RequirementSource)]
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
        # A dependency that states nothing but Observe or a sensitivity leaves open what the route requires.
        states = any(set(source.chio_extensions()) - {OBSERVE, SENSITIVITY} for source in sources)
        if states or is_among(route.template, settings.exclude_paths, settings.exclude_prefixes):
            continue
        if writes := sorted(WRITES.intersection(route.methods) - settings.exclude_methods):
            free.append(f"{'|'.join(writes)} {route.template}")
        elif route.websocket and "GET" not in settings.exclude_methods:
            open_sockets.append(route.template)
    if free:
        text = f"routes that write and state no requirement, so any valid capability opens them: {', '.join(free)}"
        yield Finding("INFO", "no_requirement", text)
    if open_sockets:
        text = (
            "websockets that state no requirement, so any caller opens them, because a handshake is a GET; where"
            " messages have side effects, state Policy(side_effects=True) or RequireCapability"
        )
        yield Finding("INFO", "open_websocket", f"{text}: {', '.join(open_sockets)}")
