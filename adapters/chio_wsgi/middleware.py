"""ChioWSGIMiddleware: every request is evaluated before the application sees it.

WSGIGuardRequest is the view of a request over a WSGI environment (PEP 3333).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from chio_core.client.client import SyncChioClient
from chio_core.evaluation.governed import NO_MATCH, RouteMatch
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.sources import CapabilityFunction
from chio_core.guards.chain import Chain, Guard
from chio_core.identity import Extractor
from chio_core.models.receipt import HttpReceipt
from chio_core.names import (
    ENVIRON_CONTEXT,
    ENVIRON_DECISION,
    ENVIRON_PASSTHROUGH,
    ENVIRON_RECEIPT,
    LOGGER,
    STATE_DECISION,
)
from chio_core.refusals.problems import RefusalPage
from chio_core.settings import ChioSettings
from chio_core.settings_report import report_settings
from chio_core.threads.context import RequestContext, Runtime, SyncAdapter
from chio_core.threads.guards import ChainRunner
from chio_core.threads.wsgi_chain import Environ, StartResponse, WSGIApp, respond
from chio_core.threads.wsgi_view import EnvironView


class WSGIGuardRequest(EnvironView):
    """A `chio_core.GuardRequest` for one request; see `EnvironView`."""

    @property
    def url_path(self) -> str:
        """Decoded path, script name included; bytes that are not UTF-8 are replacement characters."""
        return self._decoded("SCRIPT_NAME") + self.route_path

    @property
    def route_path(self) -> str:
        """Decoded path as the application gets it, without the script name."""
        return self._decoded("PATH_INFO") or "/"

    @property
    def url_scheme(self) -> str:
        """`http` or `https`."""
        return str(self.environ.get("wsgi.url_scheme") or "http")

    @property
    def scope(self) -> dict[str, Any]:
        """The TLS extension where there is a client certificate. The application and its routes are not known."""
        return self.tls()

    def _decoded(self, key: str) -> str:
        return str(self.environ.get(key) or "").encode("latin-1", "replace").decode("utf-8", "replace")


log = logging.getLogger(LOGGER)


class ChioWSGIMiddleware:
    """Governs a WSGI application (PEP 3333).

    The router of the application is not known, so the path of the request is its template, and no route can require a
    capability: the rules of the sidecar hold. Exceptions of the application are passed on.

    Args:
        app: the application inside.
        config: options; from the environment (`CHIO_*`) when left out.
        guards: guards around the decision, or a `Chain` of them; see `chio_core.guards.chain`. Those that wait or take
            `next` run in an event loop of one thread; the application stays in the server's threads.
        client: a client to share; one is made from `config` otherwise.
        extractor: finds out who is calling; `chio_core.identity.default_extractor` otherwise.
        capability: returns the token of a request that has none in its header, or None; instead of the setting
            `capability_source`, see `chio_core.evaluation.sources`.
        on_decision: called with each `Decision`. What it raises is logged and changes nothing.
        on_receipt: the same, called with each verified `HttpReceipt`.
        refusal_page: `def page(request, refusal) -> str` makes the HTML page that a browser gets for a refusal.

    Raises:
        ConfigurationError: options that cannot be used, a store, key or document that they name and that cannot be
            used, or guards that cannot work in this order.
    """

    def __init__(
        self,
        app: WSGIApp,
        config: ChioSettings | None = None,
        *,
        guards: Chain | Sequence[Guard | Chain] = (),
        client: SyncChioClient | None = None,
        extractor: Extractor | None = None,
        capability: CapabilityFunction | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        on_receipt: Callable[[HttpReceipt], None] | None = None,
        refusal_page: RefusalPage | None = None,
    ) -> None:
        self.app = app
        settings = config or (client.settings if client is not None else ChioSettings())
        hooks = (extractor, on_decision, on_receipt, refusal_page)
        self._runtime = Runtime(settings, ChainRunner(guards), *hooks, capability=capability, sync_client=client)
        self._runtime.check()
        report_settings(settings)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        context = environ[ENVIRON_CONTEXT] = RequestContext(self._runtime, environ)
        return respond(_Adapter(environ, context), self.app, environ, start_response, _failed)

    def close(self) -> None:
        """Close the connections to the sidecar and those of guards; they are opened again when they are needed."""
        self._runtime.close()
        self._runtime.guards.close()


def get_chio_receipt(environ: Mapping[str, Any]) -> HttpReceipt | None:
    """Return the verified receipt of a request; None for an excluded one, and for one that runs without a decision."""
    found = environ.get(ENVIRON_RECEIPT)
    return found if isinstance(found, HttpReceipt) else None


class _Adapter(SyncAdapter):
    def __init__(self, environ: Environ, context: RequestContext) -> None:
        pipeline = context.runtime.pipeline
        super().__init__(WSGIGuardRequest(environ, pipeline.singletons, pipeline.limits), context)

    def locate(self) -> RouteMatch:
        return NO_MATCH

    def publish(self, decision: Decision | None) -> None:
        setattr(self.view.state, STATE_DECISION, decision)
        self.view.environ.update(
            {
                ENVIRON_DECISION: decision,
                ENVIRON_RECEIPT: decision.handler_receipt if decision is not None else None,
                ENVIRON_PASSTHROUGH: decision.passthrough if decision is not None else None,
            }
        )


def _failed(exc: Exception) -> None:
    log.error("chio: a guard failed after the decision; the request gets a 500", exc_info=exc)
