"""The OpenAPI document for a sidecar (`--spec`), made from the routes of an ASGI application."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chio_asgi.listing import list_blind_mounts, list_routes
from chio_core.errors import ConfigurationError
from chio_core.routes import document
from chio_core.routes.document import Document


def document_for(app: Any) -> str:
    """Return the document of an application as JSON: the output of `chio-sidecar openapi`.

    Args:
        app: a FastAPI or Starlette application, or the middleware around one.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    return describe(app).text


def describe(app: Any, mounts: Sequence[str] = ("",)) -> Document:
    """Return the document of an application, with findings.

    Args:
        app: a FastAPI or Starlette application, or the middleware around one.
        mounts: templates of the mounts through which requests reach the application. Findings name its own templates.

    Raises:
        ConfigurationError: it has no routes, or its own document cannot be made.
    """
    routes = list(list_routes(app))
    if not routes:
        raise ConfigurationError("the application has no routes to read; name a FastAPI or Starlette application")
    title = getattr(routes[0].owner, "title", None)
    name = title if isinstance(title, str) else "application"
    return document.describe(routes, title=name, mounts=mounts, blind=list_blind_mounts(app))
