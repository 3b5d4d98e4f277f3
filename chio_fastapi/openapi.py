"""The application's own OpenAPI document with Chio's additions, and the one for the sidecar.

The policy comes from the dependencies of each route, so it changes with them. A response or a document that the
application declares stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder

from chio_asgi.listing import describe, document_for, list_routes
from chio_core.evaluation.precheck import Exclusions
from chio_core.models.openapi import PROBLEM_SCHEMA, chio_members, merge_members, needs_capability
from chio_core.names import CAPABILITY_HEADER
from chio_core.refusals.problems import MEDIA_TYPES
from chio_core.routes.document import Document
from chio_core.settings import ChioSettings
from chio_fastapi.shared import CAPABILITY_SCHEME

__all__ = ["PROBLEM", "SCHEME", "Document", "describe", "document_for", "extend_openapi", "extended"]

SCHEME = CAPABILITY_SCHEME.scheme_name
"""Name of the security scheme."""

PROBLEM: dict[str, Any] = {
    "title": PROBLEM_SCHEMA,
    "description": "Why Chio refused a request.",
    "type": "object",
    "required": ["error", "message", "status", "type"],
    "properties": {
        "error": {"type": "string", "description": "Stable code, for example chio_access_denied."},
        "message": {"type": "string", "description": "One sentence."},
        "status": {"type": "integer", "description": "The HTTP status of this response."},
        "type": {"type": "string", "format": "uri", "description": "Names the kind of problem."},
        "instance": {"type": "string", "format": "uri", "description": "Names this refusal: its receipt, or request."},
        "receipt_id": {"type": "string", "description": "Receipt of the refusal, if one was signed."},
        "suggestion": {"type": "string", "description": "What the caller can do."},
        "guard": {"type": "string", "description": "Which guard refused."},
        "details": {"type": "object", "description": "Details of the sidecar beside its reason."},
        "explain": {"type": "string", "description": "Command that explains the refusal to an operator."},
        "explain_url": {"type": "string", "format": "uri", "description": "Page that does so."},
        "title": {"type": "string", "description": "The kind of problem in words; in application/problem+json."},
        "detail": {"type": "string", "description": "The same as message; in application/problem+json."},
    },
}
"""Schema of a refusal's document (`chio_core.refusals.problems.flat` and `chio_core.refusals.problems.problem`)."""

_SCHEME = jsonable_encoder(CAPABILITY_SCHEME.model, by_alias=True, exclude_none=True)
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_RESPONSES = {
    "401": ("ChioCapabilityRequired", "A capability is required and none was presented."),
    "403": ("ChioAccessDenied", "The request was evaluated and refused."),
    "502": ("ChioNoVerifiedDecision", "The sidecar's response could not be verified."),
    "503": ("ChioSidecarUnavailable", "The sidecar could not be reached."),
}


def extend_openapi(app: FastAPI, settings: ChioSettings) -> None:
    """Add Chio's part to the OpenAPI document of an application; `add_chio` calls this.

    A document that the application makes itself (`app.openapi = …`) is extended if it was set before. One that is set
    later replaces this, and may return `extended(app, settings, document)`. A mounted application has a separate
    document.

    Args:
        app: the application. Its routes may be added later.
        settings: those of the middleware: header name and exclusions.
    """
    app.openapi = _Extended(app, app.openapi, settings)  # type: ignore[method-assign]


def extended(app: FastAPI, settings: ChioSettings, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return an application's document with `x-chio-*` members, security and the responses of refusals.

    Args:
        app: the application that the document describes.
        settings: those of the middleware.
        document: an OpenAPI 3 document; it is not changed.
    """
    work = _Extension(app, settings, document)
    paths = {
        template: {
            name: work.operation(template, name, value) if name in _METHODS and isinstance(value, Mapping) else value
            for name, value in item.items()
        }
        for template, item in (document.get("paths") or {}).items()
    }
    made = {**document, "paths": paths}
    components = work.components.finished(settings.capability_header)
    return {**made, "components": components} if components else made


class _Extended:
    """`app.openapi` with Chio's additions; they are made again if `inner` returns another document."""

    def __init__(self, app: FastAPI, inner: Callable[[], dict[str, Any]], settings: ChioSettings) -> None:
        self.chio_wrapped = inner
        self._app = app
        self._settings = settings
        self._last: tuple[dict[str, Any], dict[str, Any]] | None = None

    def __call__(self) -> dict[str, Any]:
        document = self.chio_wrapped()
        last = self._last
        if last is None or last[0] is not document:
            last = self._last = (document, extended(self._app, self._settings, document))
        return last[1]


class _Components:
    """The components of a document; sections with additions are copies."""

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self.sections: dict[str, Any] = dict(sections)

    def put(self, section: str, name: str, value: Mapping[str, Any]) -> str:
        """Add a component, under another name if the application has one of this name; return its reference."""
        known = dict(self.sections.get(section) or {})
        while known.get(name, value) != value:
            name += "_"
        known[name] = value
        self.sections[section] = known
        return f"#/components/{section}/{name}"

    def finished(self, header: str) -> dict[str, Any]:
        """Return all sections; the security scheme names the header that the application reads."""
        schemes = self.sections.get("securitySchemes") or {}
        scheme = schemes.get(SCHEME)
        if isinstance(scheme, Mapping) and scheme.get("name") == CAPABILITY_HEADER:
            self.sections["securitySchemes"] = {**schemes, SCHEME: {**scheme, "name": header}}
        return self.sections


class _Extension:
    """The work on one document."""

    def __init__(self, app: FastAPI, settings: ChioSettings, document: Mapping[str, Any]) -> None:
        listed = [
            one
            for one in list_routes(app)
            if one.owner is app and not one.websocket and getattr(one.route, "include_in_schema", False)
        ]
        # Of two routes with one template the router takes the first.
        self._routes = {(one.local, method): one for one in reversed(listed) for method in one.methods}
        self._excluded = Exclusions(settings)
        self._security = document.get("security")
        self.components = _Components(document.get("components") or {})

    def operation(self, template: str, name: str, operation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an operation with the policy of its route's dependencies, and the responses of Chio's refusals."""
        method = name.upper()
        route = self._routes.get((template, method))
        if route is None:
            return operation
        stated = route.extensions()
        if not stated and self._excluded.cover(method, template):
            return operation
        members = merge_members([*stated, chio_members(operation)])
        needed = needs_capability(method, members)

        # A response that the application declares, also by range or as default, stays as it is.
        declared = operation.get("responses") or {}
        responses = dict(declared)
        for status, (component, text) in _RESPONSES.items():
            if {status, f"{status[0]}XX", "default"}.isdisjoint(declared) and (needed or status != "401"):
                schema = {"$ref": self.components.put("schemas", PROBLEM_SCHEMA, PROBLEM)}
                response = {"description": text, "content": {kind: {"schema": schema} for kind in MEDIA_TYPES}}
                responses[status] = {"$ref": self.components.put("responses", component, response)}
        made = {**operation, **members, "responses": responses}

        # A capability is required in addition to each way to authenticate, not instead of it.
        known = operation.get("security", self._security) or []
        if needed or any(SCHEME in one for one in known):
            if SCHEME not in (self.components.sections.get("securitySchemes") or {}):
                self.components.put("securitySchemes", SCHEME, _SCHEME)
            others = [
                {key: scopes for key, scopes in one.items() if key != SCHEME} for one in known if set(one) != {SCHEME}
            ]
            ways = list({tuple(one): one for one in others or [{}]}.values())
            made["security"] = [{**one, SCHEME: []} for one in ways] + ([] if needed else ways)
        return made
