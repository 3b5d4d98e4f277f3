"""The application's own OpenAPI document, with what Chio adds to it, and the one for the sidecar.

Nothing is written by hand: policy comes from the dependencies of each route, so it changes with them. What the
application has declared itself, a response or a document of its own, stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder

from chio_asgi.document import Document, describe, document_for
from chio_asgi.listing import ListedRoute, extension_sources, list_routes
from chio_core.evaluation.precheck import Exclusions
from chio_core.models.openapi import chio_members, merge_members, needs_capability
from chio_core.names import CAPABILITY_HEADER
from chio_core.refusals.problems import MEDIA_TYPES
from chio_core.settings import ChioSettings
from chio_fastapi.shared import CAPABILITY_SCHEME

__all__ = ["PROBLEM", "SCHEME", "Document", "describe", "document_for", "extend_openapi", "extended"]

SCHEME = CAPABILITY_SCHEME.scheme_name
"""Name of the security scheme."""

PROBLEM: dict[str, Any] = {
    "title": "ChioProblem",
    "description": "Why Chio refused a request.",
    "type": "object",
    "required": ["error", "message", "status", "type"],
    "properties": {
        "error": {"type": "string", "description": "Stable code, for example chio_access_denied."},
        "message": {"type": "string", "description": "One sentence."},
        "status": {"type": "integer", "description": "The HTTP status of this answer."},
        "type": {"type": "string", "format": "uri", "description": "Names the kind of problem."},
        "instance": {"type": "string", "format": "uri", "description": "Names this refusal: its receipt, or request."},
        "receipt_id": {"type": "string", "description": "Receipt of the refusal, where one was signed."},
        "suggestion": {"type": "string", "description": "What the caller can do."},
        "guard": {"type": "string", "description": "Which guard refused."},
        "details": {"type": "object", "description": "What the sidecar tells beyond its reason."},
        "explain": {"type": "string", "description": "Command that explains the refusal to an operator."},
        "explain_url": {"type": "string", "format": "uri", "description": "Page that does so."},
        "title": {"type": "string", "description": "The kind of problem in words; in application/problem+json."},
        "detail": {"type": "string", "description": "The same as message; in application/problem+json."},
    },
}
"""Schema of a refusal's document (`chio_core.refusals.problems.flat` and `chio_core.refusals.problems.problem`)."""

_SCHEME = jsonable_encoder(CAPABILITY_SCHEME.model, by_alias=True, exclude_none=True)
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})
_ANSWERS = {
    "401": ("ChioCapabilityRequired", "A capability is required and none was presented."),
    "403": ("ChioAccessDenied", "The request was judged and refused."),
    "502": ("ChioNoVerifiedDecision", "The sidecar's answer could not be verified."),
    "503": ("ChioSidecarUnavailable", "The sidecar could not be asked."),
}


def extend_openapi(app: FastAPI, settings: ChioSettings) -> None:
    """Have an application describe itself with what Chio adds; `add_chio` does this.

    A document that the application makes itself (`app.openapi = …`) is extended as well when it was set before;
    set later, it replaces this, and may return `extended(app, settings, document)`. A mounted application has a
    document of its own.

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
    """`app.openapi` with what Chio adds. The original document is cached, or not, by its maker."""

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
    """The document's components, copied where something is added."""

    def __init__(self, sections: Mapping[str, Any]) -> None:
        self.sections: dict[str, Any] = dict(sections)

    def put(self, section: str, name: str, value: Mapping[str, Any]) -> str:
        """Add a component, under another name where the application has one of this name; return its reference."""
        known = dict(self.sections.get(section) or {})
        while known.get(name, value) != value:
            name += "_"
        known[name] = value
        self.sections[section] = known
        return f"#/components/{section}/{name}"

    def finished(self, header: str) -> dict[str, Any]:
        """Return all of them; the security scheme names the header that the application reads."""
        schemes = self.sections.get("securitySchemes") or {}
        scheme = schemes.get(SCHEME)
        if isinstance(scheme, Mapping) and scheme.get("name") == CAPABILITY_HEADER:
            self.sections["securitySchemes"] = {**schemes, SCHEME: {**scheme, "name": header}}
        return self.sections


class _Extension:
    """The work on one document."""

    def __init__(self, app: FastAPI, settings: ChioSettings, document: Mapping[str, Any]) -> None:
        listed = [one for one in list_routes(app) if one.owner is app and _is_described(one)]
        # Of two routes at one place the router takes the first.
        self._routes = {(one.local, method): one for one in reversed(listed) for method in one.methods}
        self._excluded = Exclusions(settings)
        self._security = document.get("security")
        self.components = _Components(document.get("components") or {})

    def operation(self, template: str, name: str, operation: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return an operation with what its route's dependencies state, and the answers that Chio may give."""
        method = name.upper()
        route = self._routes.get((template, method))
        if route is None:
            return operation
        stated = [source.chio_extensions() for source in extension_sources(route)]
        if not stated and self._excluded.cover(method, template):
            return operation
        members = merge_members([*stated, chio_members(operation)])
        needed = needs_capability(method, members)
        made = {**operation, **members, "responses": self._responses(operation.get("responses") or {}, needed)}
        known = operation.get("security", self._security) or []
        if needed or any(SCHEME in one for one in known):
            made["security"] = self._secured(known, needed)
        return made

    def _secured(self, known: Sequence[Mapping[str, Any]], needed: bool) -> list[dict[str, Any]]:
        # The capability is needed besides each way of authenticating, not instead of them.
        if SCHEME not in (self.components.sections.get("securitySchemes") or {}):
            self.components.put("securitySchemes", SCHEME, _SCHEME)
        ways = [
            {name: scopes for name, scopes in one.items() if name != SCHEME} for one in known if set(one) != {SCHEME}
        ]
        ways = list({tuple(one): one for one in ways or [{}]}.values())
        return [{**one, SCHEME: []} for one in ways] + ([] if needed else ways)

    def _responses(self, declared: Mapping[str, Any], needed: bool) -> dict[str, Any]:
        made = dict(declared)
        for status, (name, text) in _ANSWERS.items():
            taken = {status, f"{status[0]}XX", "default"} & set(declared)
            if not taken and (needed or status != "401"):
                made[status] = {"$ref": self.components.put("responses", name, _answer(self.components, text))}
        return made


def _is_described(route: ListedRoute) -> bool:
    return not route.websocket and bool(getattr(route.route, "include_in_schema", False))


def _answer(components: _Components, text: str) -> dict[str, Any]:
    schema = {"$ref": components.put("schemas", "ChioProblem", PROBLEM)}
    return {"description": text, "content": {kind: {"schema": schema} for kind in MEDIA_TYPES}}
