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
from chio_core.evaluation.requirements import CapabilityRule, rules_of

_PARAMETER = re.compile(r"<(?:[A-Za-z_]\w*(?:\(.*?\))?:)?([A-Za-z_]\w*)>", re.ASCII)


def find_view(app: Flask, request: Request) -> RouteMatch:
    """Return the view that Flask will run, unless inner WSGI middleware changes the path.

    A path that only other methods are known for has its template too; Flask answers it with 405.
    """
    try:
        adapter = app.create_url_adapter(request)
    except HTTPException:
        return NO_MATCH  # a host that is not trusted; Flask refuses it
    return _match(app, adapter, request.method) if adapter is not None else NO_MATCH


def view_match(app: Flask, rule: Rule | None, params: Mapping[str, Any] | None, method: str) -> RouteMatch:
    """Return what Flask's own match means."""
    if rule is None:
        return NO_MATCH
    view = app.view_functions.get(rule.endpoint)
    return RouteMatch(template_of(rule.rule), params or {}, tuple(_rules(view, method.lower())), rule)


@lru_cache(maxsize=4096)
def template_of(rule: str) -> str:
    """Return the path template of a URL rule, converters taken off."""
    return "/" + _PARAMETER.sub(r"{\1}", rule).removeprefix("/")


def _match(app: Flask, adapter: MapAdapter, method: str) -> RouteMatch:
    try:
        rule, params = adapter.match(method=method, return_rule=True)
    except MethodNotAllowed as exc:
        other = next(iter(exc.valid_methods or ()), None)
        if other is None or other == method:
            return NO_MATCH
        return RouteMatch(_match(app, adapter, other).template)
    except HTTPException:
        return NO_MATCH
    return view_match(app, rule, params, method)


def _rules(view: Any, method: str) -> Iterator[CapabilityRule]:
    yield from rules_of(view)
    view_class = getattr(view, "view_class", None)
    if view_class is None:
        return
    name = "get" if method == "head" and not hasattr(view_class, "head") else method
    for own in ("dispatch_request", name):
        yield from rules_of(getattr(view_class, own, None))
