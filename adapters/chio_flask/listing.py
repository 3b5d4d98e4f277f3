"""The views of an application, listed without a request: for documents and checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from chio_core.evaluation.policies import ViewPolicies
from chio_core.evaluation.requirements import RequirementSource
from chio_core.guards.chain import Finding
from chio_core.models.request import METHODS
from chio_core.names import FLASK_EXTENSION
from chio_core.routes import document
from chio_core.routes.document import Document, document_for_embedded
from chio_core.routes.findings import csrf_findings, route_findings
from chio_core.routes.listing import ListedRoute
from chio_core.settings import ChioSettings
from chio_flask.routing import sources_of_view, template_of


def list_routes(app: Flask, policies: ViewPolicies | None = None) -> Iterator[ListedRoute]:
    """Yield the views of an application.

    Args:
        app: the application.
        policies: what the settings state about views; those of the extension, or of `app.config`, if left out.

    Raises:
        ConfigurationError: `CHIO_VIEW_POLICIES` cannot be used.
    """
    if policies is None:
        live = getattr(app.extensions.get(FLASK_EXTENSION), "live", None)
        policies = live.get().policies if live is not None else ViewPolicies(app.config.get("CHIO_VIEW_POLICIES"))
    for rule in app.url_map.iter_rules():
        if rule.build_only:
            continue
        template = template_of(rule.rule)
        outer = policies(rule.endpoint, template) if policies is not None else ()
        by_sources: dict[tuple[RequirementSource, ...], list[str]] = {}
        for method in sorted(METHODS & set(rule.methods or METHODS)):
            by_sources.setdefault(tuple(sources_of_view(app, rule.endpoint, method)), []).append(method)
        for sources, methods in by_sources.items():
            yield ListedRoute(
                template=template,
                methods=tuple(methods),
                resolve=partial(_resolved, app, rule),
                sources=(*outer, *sources),
                name=rule.endpoint,
                convertors=rule._converters,
                route=rule,
                host=rule.host or rule.subdomain or None,
            )


def document_for(app: Flask) -> str:
    """Return the document of an application as JSON: the output of `chio-sidecar openapi`.

    Raises:
        ConfigurationError: it has no views, or `CHIO_VIEW_POLICIES` cannot be used.
    """
    return describe(app).text


def describe(app: Flask, policies: ViewPolicies | None = None) -> Document:
    """Return the document of an application, with findings.

    Args:
        app, policies: see `list_routes`.

    Raises:
        ConfigurationError: see `document_for`.
    """
    return document.describe(list(list_routes(app, policies)), title=app.name)


def routes_for_embedded(app: Flask, policies: ViewPolicies, mounts: Sequence[str]) -> str | None:
    """Return the document for the application's embedded sidecar; None for an application without views."""
    return document_for_embedded(partial(describe, app, policies))


def _resolved(app: Flask, rule: Rule, method: str, path: str) -> str | None:
    host = rule.host or app.config["SERVER_NAME"] or "localhost"
    try:
        found, _ = app.url_map.bind(host, subdomain=rule.subdomain).match(path, method=method, return_rule=True)
    except HTTPException:
        return None
    return template_of(found.rule)


def findings(app: Flask, routes: Sequence[ListedRoute], settings: ChioSettings) -> Iterator[Finding]:
    """Yield the findings of `chio-sidecar check` about an application: its CSRF protection, and its routes."""
    yield from csrf_findings(settings, "csrf" in app.extensions, "install Flask-WTF and call CSRFProtect(app)")
    yield from route_findings(routes, settings)
