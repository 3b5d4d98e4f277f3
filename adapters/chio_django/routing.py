"""Which view will run: found before Django resolves the URL, with Django's own resolver on the same path.

`narrowed` gives that resolver only the patterns that can match the path; what remains is tried by Django's own code in
the same order. A pattern is left out only if Django's own `match` compares the path with the pattern's regular
expression, and that expression cannot match (`chio_core.routes.index`).
"""

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
from django.urls import Resolver404, ResolverMatch, URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RegexPattern, RoutePattern
from django.utils import translation

from chio_core.evaluation.governed import NO_MATCH, RouteMatch
from chio_core.evaluation.policies import ViewPolicies
from chio_core.evaluation.requirements import RequirementSource, rules_of
from chio_core.routes.index import PathIndex, uses_only

_FEW = 8
"""So many patterns are tried sooner than looked up."""

_MAX_KNOWN = 4096
_NAMES = frozenset(
    (  # noqa: SIM905 - one name a line is longer
        "ValueError _is_endpoint _route converters end endswith fullmatch groupdict groups items len pattern regex"
        " search startswith to_python"
    ).split()
)
"""The names in the code of Django's `match`. Code with another name may match in another way."""

_indexes: dict[int, tuple[URLResolver, list[Any], PathIndex | None]] = {}


def narrowed(resolver: URLResolver, path: str) -> URLResolver:
    """Return a resolver that resolves `path` as `resolver` does, and no other path.

    Args:
        resolver: of a URLconf, or one that it includes.
        path: what `resolver` would be given.
    """
    # Another class may resolve in another way, and a converter may ask a database: it is called once.
    if type(resolver) is not URLResolver or resolver.pattern.converters:
        return resolver
    found, patterns = resolver.pattern.match(path), resolver.url_patterns
    index = _index_of(resolver, patterns) if found and isinstance(patterns, list) else None
    if found is None or index is None:
        return resolver
    rest = found[0]
    copy = URLResolver.__new__(URLResolver)
    copy.__dict__.update(resolver.__dict__)
    copy.__dict__["url_patterns"] = [
        narrowed(one, rest) if isinstance(one, URLResolver) else one
        for one in (patterns[number] for number in index.candidates(rest))
    ]
    return copy


def _index_of(resolver: URLResolver, patterns: list[Any]) -> PathIndex | None:
    """Return the index of a resolver's patterns; None if they are few, and none of them includes others."""
    known = _indexes.get(id(resolver))
    if known is None or known[1] != patterns:
        if len(_indexes) >= _MAX_KNOWN:
            _indexes.clear()
        many = len(patterns) > _FEW or any(isinstance(one, URLResolver) for one in patterns)
        index = PathIndex(map(_pattern_of, patterns)) if many else None
        # The resolver is kept beside its index, so that its id cannot be reused for another one.
        known = _indexes[id(resolver)] = (resolver, list(patterns), index)
    return known[2]


def _pattern_of(entry: Any) -> re.Pattern[str] | None:
    """Return the expression without which an entry cannot match; None if it has to be asked."""
    if type(entry) not in (URLPattern, URLResolver):
        return None
    pattern: Any = entry.pattern
    text = {RoutePattern: "_route", RegexPattern: "_regex"}.get(type(pattern), "")
    # A translated pattern is no `str`, and has another expression for each language.
    plain = isinstance(getattr(pattern, text, None), str) and uses_only(type(pattern).match, _NAMES)
    return pattern.regex if plain and isinstance(pattern.regex, re.Pattern) else None


_ESCAPED = re.compile(r"\\([^A-Za-z0-9])")
_STILL_REGEX = re.compile(r"[()\[\]|\\]|<[^>]*<")
_PARAMETER = re.compile(r"<(?:[^>:]+:)?([^>]+)>")
_MAX_KNOWN = 4096

_known_views: dict[tuple[int, str], tuple[Any, tuple[RequirementSource, ...]]] = {}


def find_view(request: HttpRequest, policies: ViewPolicies | None = None) -> RouteMatch:
    """Return the view that Django will run for `request.path_info`, unless inner middleware changes that.

    Args:
        policies: what the settings state about views; None for nothing.
    """
    urlconf = getattr(request, "urlconf", None)
    with _language(request, urlconf or settings.ROOT_URLCONF):
        try:
            match = narrowed(get_resolver(urlconf), request.path_info).resolve(request.path_info)
        except Resolver404:
            return NO_MATCH
    return view_match(match, request.method or "", policies)


def view_match(match: ResolverMatch | None, method: str, policies: ViewPolicies | None) -> RouteMatch:
    """Return what Django's own result means."""
    if match is None:
        return NO_MATCH
    template = template_of(str(match.route)) if match.route is not None else None
    outer = policies(match.view_name, policy_path(str(match.route))) if policies is not None else ()
    return RouteMatch(template, match.kwargs, (*outer, *_sources(match.func, method)), match, outer)


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


def _sources(callback: Any, method: str) -> tuple[RequirementSource, ...]:
    """Return `sources_of_view` of a view, which states the same for each request."""
    known = _known_views.get((id(callback), method))
    if known is None:
        if len(_known_views) >= _MAX_KNOWN:
            _known_views.clear()
        # The view is kept beside its sources, so that its id cannot be reused for another one.
        known = _known_views[id(callback), method] = (callback, tuple(sources_of_view(callback, method)))
    return known[1]


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
