"""Which view will run: found before Django resolves the URL, with Django's own resolver on the same path."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
from chio_core.evaluation.requirements import CapabilityRule, rules_of

_ESCAPED = re.compile(r"\\([^A-Za-z0-9])")
_STILL_REGEX = re.compile(r"[()\[\]|\\]|<[^>]*<")
_PARAMETER = re.compile(r"<(?:[^>:]+:)?([^>]+)>")


def find_view(request: HttpRequest) -> RouteMatch:
    """Return the view that Django will run for `request.path_info`, unless inner middleware changes that."""
    urlconf = getattr(request, "urlconf", None)
    with _language(request, urlconf or settings.ROOT_URLCONF):
        try:
            match = get_resolver(urlconf).resolve(request.path_info)
        except Resolver404:
            return NO_MATCH
    return view_match(match, request.method or "")


def view_match(match: ResolverMatch | None, method: str) -> RouteMatch:
    """Return what Django's own result means."""
    if match is None:
        return NO_MATCH
    template = template_of(str(match.route)) if match.route is not None else None
    return RouteMatch(template, match.kwargs, tuple(_rules(match.func, method.lower())), match)


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


def _rules(callback: Any, method: str) -> Iterator[CapabilityRule]:
    while isinstance(callback, partial):
        callback = callback.func
    yield from rules_of(callback)
    view_class = getattr(callback, "view_class", None) or getattr(callback, "cls", None)
    if view_class is None:
        return
    name = (getattr(callback, "actions", None) or {}).get(method, method)
    if name == "head" and not hasattr(view_class, "head"):
        name = "get"
    yield from rules_of(getattr(view_class, name, None))
    permissions = getattr(callback, "initkwargs", {}).get("permission_classes")
    if permissions is None:
        permissions = getattr(view_class, "permission_classes", None)
    for permission in permissions or ():
        yield from _permission_rules(permission)


def _permission_rules(permission: Any) -> Iterator[CapabilityRule]:
    # `A & B` requires both. What `|` or `~` requires is known only when it is evaluated.
    if getattr(getattr(permission, "operator_class", None), "__name__", "") == "AND":
        yield from _permission_rules(permission.op1_class)
        yield from _permission_rules(permission.op2_class)
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
