"""add_chio: one line to govern a FastAPI application; and check: findings about one."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette

from chio_asgi.checkup import application_findings
from chio_asgi.config import settings_for
from chio_asgi.listing import describe
from chio_asgi.middleware import ChioASGIMiddleware
from chio_asgi.view import session_of
from chio_core.client.client import ChioClient
from chio_core.client.in_process import check_files
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.sources import CapabilityFunction, source_of
from chio_core.guards.chain import Chain, DecisionPlace, Finding, Guard, around, checked_guards
from chio_core.identity import Extractor
from chio_core.models.receipt import HttpReceipt
from chio_core.names import LOGGER, STATE_CLIENT
from chio_core.refusals.problems import RefusalPage, checked_page
from chio_core.routes.document import document_for_embedded
from chio_core.routes.findings import NOT_GOVERNED, check_governed
from chio_core.settings import ChioSettings, check_one_source
from chio_fastapi.openapi import extend_openapi
from chio_fastapi.shared import ChioDenied, answer_denied

log = logging.getLogger(LOGGER)


def add_chio(
    app: FastAPI,
    config: ChioSettings | None = None,
    *,
    guards: Chain | Sequence[Guard | Chain] = (),
    client: ChioClient | None = None,
    extractor: Extractor | None = None,
    capability: CapabilityFunction | None = None,
    on_decision: Callable[[Decision], Awaitable[None] | None] | None = None,
    on_receipt: Callable[[HttpReceipt], Awaitable[None] | None] | None = None,
    refusal_page: RefusalPage | None = None,
    **options: Any,
) -> ChioClient:
    """Govern an application: middleware, one client that the lifespan closes, and refusals in one envelope.

    The application's OpenAPI document then describes them, see `chio_fastapi.openapi`. An embedded sidecar whose URL
    names no document (`?spec=FILE`) uses the application's routes and the policy that their dependencies state.

    Args:
        app: the application. Middleware added later is outside Chio.
        config: options; or give them as keywords (`add_chio(app, sidecar_url="embedded:chio.sqlite3")`), or
            leave both out to read the environment (`CHIO_*`).
        guards: guards around the decision, or a `Chain` of them; see `chio_core.guards.chain`.
        client, extractor, capability, on_decision, on_receipt, refusal_page: see `chio_asgi.ChioASGIMiddleware`.

    Returns:
        The client, also found at `app.state.chio_client` and by `Depends(get_chio_client)`.

    Raises:
        ConfigurationError: unusable options, keywords beside `config` or `client`, a store, key or document
            that the options name and that cannot be used, or guards that cannot work in this order.
    """
    guards = checked_guards(guards)  # here, because FastAPI makes the middleware only when the application starts
    check_one_source(config, client, options)
    settings = settings_for(config, client, **options)
    source_of(settings, capability, session_of)  # here too, as with the guards
    if client is None:
        check_files(settings)  # a mounted application has no lifespan that would open it at the start
    shared = client if client is not None else ChioClient(settings)
    shared.document = shared.document or partial(routes_for_embedded, app)
    # Each middleware that is added is outside those before it.
    if names := [getattr(one.cls, "__name__", repr(one.cls)) for one in app.user_middleware]:
        log.warning(
            "chio: %s, added before add_chio, will be inside Chio: its changes to a request are not part of the"
            " decision, and it does not see Chio's refusals; to have it outside, call add_chio first",
            ", ".join(names),
        )
    setattr(app.state, STATE_CLIENT, shared)
    extend_openapi(app, settings)
    app.add_exception_handler(ChioDenied, answer_denied)  # type: ignore[arg-type]
    app.add_middleware(
        ChioASGIMiddleware,
        config=settings,
        guards=guards,
        client=shared,
        extractor=extractor,
        capability=capability,
        on_decision=on_decision,
        on_receipt=on_receipt,
        refusal_page=checked_page(refusal_page),
    )
    return shared


def routes_for_embedded(app: FastAPI, mounts: Sequence[str] = ("",)) -> str | None:
    """Return the document for this application's embedded sidecar; None for an application without routes.

    Args:
        mounts: templates of the mounts through which requests reach the application.
    """
    return document_for_embedded(partial(describe, app, mounts))


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
