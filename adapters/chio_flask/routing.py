"""Which view will run: found before Flask matches the URL, with the application's own URL map."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from flask import Flask, Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import MapAdapter, Rule

from chio_core.evaluation.governed import NO_MATCH, RouteMatch
from chio_core.evaluation.policies import ViewPolicies
from chio_core.evaluation.requirements import RequirementSource, rules_of

_PARAMETER = re.compile(r"<(?:[A-Za-z_]\w*(?:\(.*?\))?:)?([A-Za-z_]\w*)>", re.ASCII)


def find_view(app: Flask, request: Request, policies: ViewPolicies | None = None) -> RouteMatch:
    """Return the view that Flask will run, unless inner WSGI middleware changes the path.

    A path that only other methods are known for has its template too; Flask answers it with 405.

    Args:
        policies: what the settings state about views; None for nothing.
    """
    try:
        adapter = app.create_url_adapter(request)
    except HTTPException:
        return NO_MATCH  # a host that is not trusted; Flask refuses it
    return _match(app, adapter, request.method, policies) if adapter is not None else NO_MATCH


def view_match(
    app: Flask, rule: Rule | None, params: Mapping[str, Any] | None, method: str, policies: ViewPolicies | None
) -> RouteMatch:
    """Return what Flask's own match means."""
    if rule is None:
        return NO_MATCH
    template = template_of(rule.rule)
    outer = policies(rule.endpoint, template) if policies is not None else ()
    return RouteMatch(template, params or {}, (*outer, *sources_of_view(app, rule.endpoint, method)), rule, outer)


@lru_cache(maxsize=4096)
def template_of(rule: str) -> str:
    """Return the path template of a URL rule, converters taken off."""
    return "/" + _PARAMETER.sub(r"{\1}", rule).removeprefix("/")


def _match(app: Flask, adapter: MapAdapter, method: str, policies: ViewPolicies | None) -> RouteMatch:
    try:
        rule, params = adapter.match(method=method, return_rule=True)
    except MethodNotAllowed as exc:
        other = next(iter(exc.valid_methods or ()), None)
        if other is None or other == method:
            return NO_MATCH
        return RouteMatch(_match(app, adapter, other, policies).template)
    except HTTPException:
        return NO_MATCH
    return view_match(app, rule, params, method, policies)


def sources_of_view(app: Flask, endpoint: str, method: str) -> Iterator[RequirementSource]:
    """Yield what a view states for a method, outermost first: its blueprints, its decorators, its class.

    Args:
        method: upper case.
    """
    names = endpoint.split(".")[:-1]
    for depth in range(len(names)):
        yield from rules_of(app.blueprints.get(".".join(names[: depth + 1])))
    view = app.view_functions.get(endpoint)
    yield from rules_of(view)
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return
    name = "get" if method == "HEAD" and not hasattr(view_class, "head") else method.lower()
    for own in ("dispatch_request", name):
        yield from rules_of(getattr(view_class, own, None))
