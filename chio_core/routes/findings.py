"""Findings about the governance and the routes of an application, before it is deployed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from chio_core.evaluation.amounts import FromPath
from chio_core.evaluation.precheck import is_among
from chio_core.evaluation.requirements import RequirementSource
from chio_core.guards.chain import Chain, Finding
from chio_core.models.demands import BudgetDemand
from chio_core.models.openapi import OBSERVE, SENSITIVITY
from chio_core.routes.document import OVERLAPPING, describe
from chio_core.routes.listing import ListedRoute
from chio_core.settings import ChioSettings
from chio_core.settings_report import unsafe_options

NOT_GOVERNED = Finding("ERROR", "not_governed", "this application has no Chio middleware, so nothing is governed")


def csrf_findings(settings: ChioSettings, has_csrf: bool, remedy: str) -> Iterator[Finding]:
    """Yield a finding if browsers send the capability by themselves, and the framework's CSRF protection is absent.

    Args:
        has_csrf: the application has the protection.
        remedy: how to add it.
    """
    if settings.capability_source != "header" and not has_csrf:
        text = (
            f"capability_source is {settings.capability_source}, which browsers send by themselves, and there is no"
            f" CSRF protection besides Chio's check of Origin and Sec-Fetch-Site: {remedy}"
        )
        yield Finding("WARN", "no_csrf", text)


def check_governed(chain: Chain, settings: ChioSettings, *, inside: Sequence[str] = ()) -> list[Finding]:
    """Return findings about the guards, the exclusions, unsafe settings and the order of middleware.

    Args:
        chain: the whole chain, `decide` included.
        inside: class names of the middleware between Chio and the routes, outermost first.
    """
    found = chain.check()
    # An exclusion is the only success without a decision, so it is listed although it was configured.
    kinds = (
        ("excluded_methods", "methods", settings.exclude_methods),
        ("excluded_paths", "paths", settings.exclude_paths),
        ("excluded_prefixes", "paths with all below", settings.exclude_prefixes),
    )
    for category, kind, names in kinds:
        if names:
            text = f"{kind} that run without a decision: {', '.join(sorted(names))}"
            found.append(Finding("INFO", category, text))
    for name, text in unsafe_options(settings).items():
        found.append(Finding("WARN", f"setting_{name}", text))
    if "CORSMiddleware" in inside:
        text = "CORSMiddleware is inside Chio: refusals reach browsers without CORS headers; add it after Chio"
        found.append(Finding("WARN", "cors_inside", text))
    return found


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
