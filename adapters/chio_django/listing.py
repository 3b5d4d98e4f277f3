"""The views of a project, listed without a request: for documents and checks."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from django.conf import settings
from django.conf.urls.i18n import is_language_prefix_patterns_used
from django.urls import Resolver404, URLResolver, get_resolver
from django.utils import translation

from chio_core.evaluation.policies import ViewPolicies
from chio_core.evaluation.requirements import RequirementSource
from chio_core.models.request import METHODS
from chio_core.routes import document
from chio_core.routes.document import Document, document_for_embedded
from chio_core.routes.listing import ListedRoute
from chio_django.conf import conf
from chio_django.routing import ninja_operations, policy_path, sources_of_view, template_of, view_class_of


@dataclass(frozen=True, slots=True)
class _Place:
    route: str = ""
    names: tuple[str, ...] = ()
    convertors: Mapping[str, Any] = field(default_factory=dict)


def list_routes(policies: ViewPolicies | None = None) -> Iterator[ListedRoute]:
    """Yield the views of `ROOT_URLCONF`, in the order in which Django tries them, those of each language if it has any.

    Views whose regular expression no template can express are left out: their plain paths are evaluated.

    Args:
        policies: what the settings state about views; `CHIO_VIEW_POLICIES` if left out.

    Raises:
        ConfigurationError: `CHIO_VIEW_POLICIES` cannot be used.
    """
    policies = conf.view_policies() if policies is None else policies
    used, _ = is_language_prefix_patterns_used(settings.ROOT_URLCONF) if settings.USE_I18N else (False, False)
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for language in [code for code, _ in settings.LANGUAGES] if used else [None]:
        with (
            translation.override(language) if language is not None else translation.override(translation.get_language())
        ):
            found = list(_walk(get_resolver(), _Place()))
        for place, callback in found:
            template, name = template_of(place.route), ":".join(place.names)
            if template is None:
                continue
            outer = policies(name, policy_path(place.route))
            for sources, methods in _by_sources(callback).items():
                if (template, methods) not in seen:
                    seen.add((template, methods))
                    yield ListedRoute(
                        template=template,
                        methods=methods,
                        resolve=partial(_resolved, language),
                        sources=(*outer, *sources),
                        name=name,
                        convertors=place.convertors,
                        route=callback,
                    )


def document_for() -> str:
    """Return the document of the project as JSON: the output of `chio-sidecar openapi`.

    Raises:
        ConfigurationError: it has no views, or `CHIO_VIEW_POLICIES` cannot be used.
    """
    return describe().text


def describe() -> Document:
    """Return the document of the project, with findings.

    Raises:
        ConfigurationError: see `document_for`.
    """
    return document.describe(list(list_routes()), title=str(settings.ROOT_URLCONF))


def routes_for_embedded(mounts: Sequence[str]) -> str | None:
    """Return the document for the embedded sidecar; None for a project without views."""
    return document_for_embedded(describe)


def _walk(resolver: URLResolver, place: _Place) -> Iterator[tuple[_Place, Any]]:
    for one in resolver.url_patterns:
        # As `URLResolver.resolve` joins them: only the first part keeps the mark of its beginning.
        part = str(one.pattern)
        route = place.route + (part.removeprefix("^") if place.route else part)
        own = getattr(one.pattern, "converters", None) or dict(_groups(part))
        convertors = {**place.convertors, **own}
        if isinstance(one, URLResolver):
            names = (*place.names, one.namespace) if one.namespace else place.names
            yield from _walk(one, _Place(route, names, convertors))
        else:
            yield _Place(route, (*place.names, one.name or one.lookup_str), convertors), one.callback


@dataclass(frozen=True, slots=True)
class _Group:
    """A group of a regular expression, in the place of a converter."""

    regex: str


def _groups(route: str) -> Iterator[tuple[str, _Group]]:
    """Yield the named groups of a regular expression; nothing of a route with converters."""
    starts: list[int] = []
    at, in_class = 0, False
    while at < len(route):
        char = route[at]
        if char == "\\":
            at += 1
        elif in_class or char == "[":
            in_class = char != "]"
        elif char == "(":
            starts.append(at + 1)
        elif char == ")" and starts:
            inner = route[starts.pop() : at]
            if named := re.match(r"\?P<(\w+)>", inner):
                yield named[1], _Group(inner[named.end() :])
        at += 1


def _by_sources(callback: Any) -> dict[tuple[RequirementSource, ...], tuple[str, ...]]:
    found: dict[tuple[RequirementSource, ...], tuple[str, ...]] = {}
    for method in sorted(_methods(callback)):
        sources = tuple(sources_of_view(callback, method))
        found[sources] = (*found.get(sources, ()), method)
    return found


def _methods(callback: Any) -> frozenset[str]:
    """Return the methods that a view handles, as far as can be known: a function may handle all of them."""
    if operations := ninja_operations(callback):
        return METHODS & {method for one in operations for method in one.methods}
    view_class = view_class_of(callback)
    if view_class is None:
        return METHODS
    known = getattr(callback, "actions", None) or [
        name for name in getattr(view_class, "http_method_names", ()) if hasattr(view_class, name)
    ]
    names = {name.upper() for name in known} | ({"HEAD"} if "get" in known else set())
    return METHODS & (names | {"OPTIONS"})


def _resolved(language: str | None, method: str, path: str) -> str | None:
    with translation.override(language) if language is not None else translation.override(translation.get_language()):
        try:
            match = get_resolver().resolve(path)
        except Resolver404:
            return None
    return template_of(str(match.route)) if match.route is not None else None
