"""check(app): what will run for each request, what will not be governed, and what is unsafe."""

from __future__ import annotations

import inspect
from typing import Any

from starlette.applications import Starlette

from chio_asgi.checkup import application_findings
from chio_asgi.config import settings_for
from chio_asgi.middleware import ChioASGIMiddleware
from chio_core.guards.chain import Chain, DecisionMember, Finding, around
from chio_core.guards.findings import NOT_GOVERNED, check_governed
from chio_core.request import GuardRequest
from chio_core.settings import ChioSettings


class _Decide(DecisionMember):
    """Marks the place of the decision in a chain that does not run."""

    async def __call__(self, request: GuardRequest) -> None: ...


def check(app: Starlette | ChioASGIMiddleware) -> list[Finding]:
    """Return findings about an application, without starting it or changing anything.

    Args:
        app: a FastAPI or Starlette application that has `add_chio` or the middleware, or an application that
            the middleware was wrapped around.

    Returns:
        One finding with the resolved chain, by name and in run order (where there are guards); what runs without
        a decision; unsafe settings; an order of middleware that loses headers; routes that the sidecar tells apart
        otherwise than the router; demands of routes that cannot work or limit nothing, and routes that write and ask
        for nothing. Severities are `INFO`, `WARN` and `ERROR`.

    Raises:
        ConfigurationError: the environment that the settings come from cannot be used.
    """
    if isinstance(app, ChioASGIMiddleware):
        inside = [layer.cls.__name__ for layer in getattr(app.app, "user_middleware", ())]
        return [*check_governed(app.chain, app.settings, inside=inside), *application_findings(app, app.settings)]
    names = [getattr(layer.cls, "__name__", "") for layer in app.user_middleware]
    for at, layer in enumerate(app.user_middleware):
        if _is_ours(layer.cls):
            chain, settings = _declared(layer)
            found = check_governed(chain, settings, inside=names[at + 1 :])
            return [*found, *application_findings(app, settings)]
    return [NOT_GOVERNED]


def _is_ours(cls: object) -> bool:
    # A layer may be a factory function instead of a class.
    return inspect.isclass(cls) and issubclass(cls, ChioASGIMiddleware)


def _declared(layer: Any) -> tuple[Chain, ChioSettings]:
    given = inspect.signature(ChioASGIMiddleware).bind_partial(None, *layer.args, **layer.kwargs).arguments
    guards = given.get("guards", ())
    return around(guards, _Decide()), settings_for(given.get("config"), given.get("client"))
