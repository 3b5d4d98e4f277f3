"""Which view will run: found before Django resolves the URL, with Django's own resolver on the same path."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import Any

from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.contrib.admindocs.utils import (
    remove_non_capturing_groups,
    replace_metacharacters,
    replace_named_groups,
    replace_unnamed_groups,
)
from django.http import HttpRequest
from django.urls import Resolver404, ResolverMatch, get_resolver
from django.utils import translation

from chio_core.evaluation.governed import NO_MATCH, RouteMatch
from chio_core.evaluation.policies import NO_POLICIES, ViewPolicies
from chio_core.evaluation.requirements import RequirementSource, rules_of
from chio_django.narrowing import narrowed

_ESCAPED = re.compile(r"\\([^A-Za-z0-9])")
_STILL_REGEX = re.compile(r"[()\[\]|\\]|<[^>]*<")
_PARAMETER = re.compile(r"<(?:[^>:]+:)?([^>]+)>")


def find_view(request: HttpRequest, policies: ViewPolicies = NO_POLICIES) -> RouteMatch:
    """Return the view that Django will run for `request.path_info`, unless inner middleware changes that.

    Args:
        policies: what the settings state about views.
    """
    urlconf = getattr(request, "urlconf", None)
    with _language(request, urlconf or settings.ROOT_URLCONF):
        try:
            match = narrowed(get_resolver(urlconf), request.path_info).resolve(request.path_info)
        except Resolver404:
            return NO_MATCH
    return view_match(match, request.method or "", policies)


def view_match(match: ResolverMatch | None, method: str, policies: ViewPolicies) -> RouteMatch:
    """Return what Django's own result means."""
    if match is None:
        return NO_MATCH
    template = template_of(str(match.route)) if match.route is not None else None
    outer = policies(match.view_name, policy_path(str(match.route))) if policies else ()
    return RouteMatch(template, match.kwargs, (*outer, *sources_of_view(match.func, method)), match, outer)


def policy_path(route: str) -> str:
    """Return the path by which `CHIO_VIEW_POLICIES` finds a route: its template, or as much of a path as it states."""
    return template_of(route) or "/" + route.lstrip("^/")


@lru_cache(maxsize=4096)
def template_of(route: str) -> str | None:
    """Return the path template of a route as Django states it, converters taken off and regular expressions simplified.

    Django's own documentation generator and the OpenAPI generators for Django simplify in the same way.

    Returns:
        None for a regular expression that no template can express.
    """
    if "(" in route or "\\" in route or route[:1] == "^" or route[-1:] == "$":
        route = replace_unnamed_groups(replace_named_groups(remove_non_capturing_groups(route)))
        route = _ESCAPED.sub(r"\1", replace_metacharacters(route))
        if _STILL_REGEX.search(route):
            return None
    return "/" + _PARAMETER.sub(r"{\1}", route).removeprefix("/")


def sources_of_view(callback: Any, method: str) -> Iterator[RequirementSource]:
    """Yield what a view states for a method, outermost first: decorators, its class, its operation, permissions.

    Args:
        method: upper case.
    """
    while isinstance(callback, partial):
        callback = callback.func
    yield from rules_of(callback)
    operation = next((one for one in ninja_operations(callback) if method in one.methods), None)
    if operation is not None:
        yield from rules_of(operation.run)
        yield from rules_of(operation.view_func)
    view_class = view_class_of(callback)
    if view_class is None:
        return
    given = {**getattr(callback, "view_initkwargs", {}), **getattr(callback, "initkwargs", {})}
    stated = given.get("chio_policy", getattr(view_class, "chio_policy", ()))
    yield from stated if isinstance(stated, list | tuple) else (stated,)
    name = (getattr(callback, "actions", None) or {}).get(method.lower(), method.lower())
    if name == "head" and not hasattr(view_class, "head"):
        name = "get"
    yield from rules_of(getattr(view_class, name, None))
    for permission in given.get("permission_classes", getattr(view_class, "permission_classes", None)) or ():
        yield from _permission_rules(permission)


def view_class_of(callback: Any) -> Any:
    """Return the class of a view, of Django or of Django REST framework; None for a function."""
    return getattr(callback, "view_class", None) or getattr(callback, "cls", None)


def ninja_operations(callback: Any) -> Sequence[Any]:
    """Return the operations of a view that django-ninja has made for a path; empty for any other view."""
    view = inspect.unwrap(callback)
    if not getattr(view, "__module__", "").startswith("ninja."):
        return ()
    # Such a view is a function inside `PathView.get_view`, which keeps the object in its closure.
    cells = (cell.cell_contents for cell in getattr(view, "__closure__", None) or ())
    return next((found for one in cells if isinstance(found := getattr(one, "operations", None), list)), ())


def _permission_rules(permission: Any) -> Iterator[RequirementSource]:
    # `A & B` requires both. What `|` or `~` requires is known only when it is evaluated.
    if getattr(getattr(permission, "operator_class", None), "__name__", "") == "AND":
        yield from _permission_rules(permission.op1_class)
        yield from _permission_rules(permission.op2_class)
    elif isinstance(permission, RequirementSource):
        yield permission
    else:
        yield from rules_of(permission)


def _language(request: HttpRequest, urlconf: Any) -> AbstractContextManager[Any]:
    # With `i18n_patterns` the active language decides what a path means, and LocaleMiddleware, which is
    # usually inner middleware, has not activated it yet. The same choice is made here.
    if not settings.USE_I18N:
        return nullcontext()
    used, prefixed_default = is_language_prefix_patterns_used(urlconf)
    if not used:
        return nullcontext()
    language = translation.get_language_from_request(request, check_path=True)
    if not prefixed_default and not translation.get_language_from_path(request.path_info):
        language = settings.LANGUAGE_CODE
    return translation.override(language)
