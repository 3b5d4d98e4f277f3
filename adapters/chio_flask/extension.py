"""Chio: the extension. `Chio(app)` governs a Flask application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask, Response, request

from chio_core.client.client import SyncChioClient
from chio_core.errors import ConfigurationError
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.sources import CapabilityFunction
from chio_core.guards.chain import Chain, Guard
from chio_core.identity import Extractor
from chio_core.models.receipt import HttpReceipt
from chio_core.names import FLASK_EXTENSION, LOGGER
from chio_core.refusals.problems import RefusalPage
from chio_core.settings import ChioSettings, check_one_source
from chio_core.settings_report import nearest_name, report_settings, unknown_names
from chio_core.telemetry.metrics import CONTENT_TYPE
from chio_core.threads.guards import ChainRunner
from chio_flask.context import LiveRuntime, context_in
from chio_flask.driver import GovernedApp

log = logging.getLogger(LOGGER)


class Chio:
    """Governs one or several Flask applications.

    Options come from keywords, then `app.config["CHIO_…"]`, then the environment (`CHIO_*`). Each application has
    its own settings and connections.

    Args:
        app: the application; leave it out in an application factory, and call `init_app`.
        config: complete options, instead of keywords and configuration.
        client: a client to share; one is made for each application otherwise.
        extractor: finds out who is calling; `chio_core.identity.default_extractor` otherwise.
        capability: returns the token of a request that has none in its header, or None; instead of the setting
            `capability_source`, see `chio_core.evaluation.sources`.
        on_decision: called with each `Decision`. What it raises is logged and changes nothing.
        on_receipt: the same, called with each verified `HttpReceipt`.
        refusal_page: `def page(request, refusal) -> str` makes the HTML page that a browser gets for a refusal.
        guards: guards around the decision, or a `Chain` of them; see `chio_core.guards.chain`. Guards that
            wait or take `next` run in an event loop of one thread; views stay in the server's threads.
        view_policies: policy of views by endpoint or path, instead of `app.config["CHIO_VIEW_POLICIES"]`; see
            `chio_core.evaluation.policies.ViewPolicies`.
        options: options of `chio_core.ChioSettings`, for example `sidecar_url="embedded:chio.sqlite3"`.

    Raises:
        ConfigurationError: options that cannot be used, keywords beside `config` or `client`, a store, key or
            document that they name and that cannot be used, or guards that cannot work in this order.
    """

    def __init__(
        self,
        app: Flask | None = None,
        config: ChioSettings | None = None,
        *,
        client: SyncChioClient | None = None,
        extractor: Extractor | None = None,
        capability: CapabilityFunction | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        on_receipt: Callable[[HttpReceipt], None] | None = None,
        refusal_page: RefusalPage | None = None,
        guards: Chain | Sequence[Guard | Chain] = (),
        view_policies: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        check_one_source(config, client, options)
        self._config = config
        self._client = client
        self._options = options
        self._guards = ChainRunner(guards)
        self._hooks = (extractor, on_decision, on_receipt, refusal_page)
        self._view_policies = view_policies
        self._capability = capability
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Govern an application.

        WSGI middleware that wraps `app.wsgi_app` later is outside Chio.

        Raises:
            ConfigurationError: its options or its embedded sidecar cannot be used, or it is governed already.
        """
        if FLASK_EXTENSION in app.extensions:
            raise ConfigurationError(f"application {app.name} is governed already; call init_app once")
        own = (self._options, self._guards, self._config, self._client)
        live = LiveRuntime(app, *own, *self._hooks, self._view_policies, self._capability)
        live.get().check()
        governed = GovernedApp(app, app.wsgi_app, live)
        app.extensions[FLASK_EXTENSION] = governed
        app.wsgi_app = governed  # type: ignore[method-assign]
        report_settings(live.get().settings)
        for name in unknown_names(dict.fromkeys(app.config, "")):
            near = nearest_name(name, ())
            hint = f"; did you mean {near}?" if near else ""
            log.warning("chio settings: %s in app.config is not an option of Chio%s", name, hint)

    def close(self, app: Flask) -> None:
        """Close the connections of an application to its sidecar; they are opened again when they are needed."""
        governed = app.extensions.get(FLASK_EXTENSION)
        if isinstance(governed, GovernedApp):
            governed.live.close()


def metrics() -> Response:
    """Respond with the metrics of this process, for Prometheus.

    The view is governed like any other: exclude its path (`CHIO_EXCLUDE_PATHS`), or let the scraper be allowed. It
    shows how much traffic there is and how it was decided, and has no other protection.

    Raises:
        ConfigurationError: the application is not governed.
    """
    context = context_in(request.environ)
    if context is None:
        raise ConfigurationError("chio_flask.metrics needs a governed application: Chio(app)")
    page = context.runtime.telemetry.metrics.render()
    return Response(page, content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})
