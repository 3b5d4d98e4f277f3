"""check(app): findings about the guards, the routes and the settings of an application."""

from __future__ import annotations

import inspect

from starlette.applications import Starlette

from chio_asgi.checkup import application_findings
from chio_asgi.config import settings_for
from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.guards.chain import DecisionPlace, Finding, around
from chio_core.guards.findings import NOT_GOVERNED, check_governed


def check(app: Starlette | ChioASGIMiddleware) -> list[Finding]:
    """Return findings about an application, without starting or changing it.

    Args:
        app: a FastAPI or Starlette application that has `add_chio` or the middleware, or an application that
            the middleware was wrapped around.

    Returns:
        Findings about the chain of guards, by name and in run order (if there are guards); what runs without a
        decision; unsafe settings; an order of middleware that loses headers; routes that router and sidecar choose
        differently; requirements that cannot work or limit nothing, and routes that write without a requirement.
        Severities are `INFO`, `WARN` and `ERROR`.

    Raises:
        ConfigurationError: the environment cannot be used.
    """
    if isinstance(app, ChioASGIMiddleware):
        inside = [layer.cls.__name__ for layer in getattr(app.app, "user_middleware", ())]
        return [*check_governed(app.chain, app.settings, inside=inside), *application_findings(app, app.settings)]
    names = [getattr(layer.cls, "__name__", "") for layer in app.user_middleware]
    for at, layer in enumerate(app.user_middleware):
        kind: object = layer.cls  # a class or a factory function
        if isinstance(kind, type) and issubclass(kind, ChioASGIMiddleware):
            given = inspect.signature(ChioASGIMiddleware).bind_partial(None, *layer.args, **layer.kwargs).arguments
            chain = around(given.get("guards", ()), DecisionPlace())
            settings = settings_for(given.get("config"), given.get("client"))
            found = check_governed(chain, settings, inside=names[at + 1 :])
            return [*found, *application_findings(app, settings)]
    return [NOT_GOVERNED]
