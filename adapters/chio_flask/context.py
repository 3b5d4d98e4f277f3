"""How Flask's requests are governed: the runtime for the present configuration, and what is kept on a request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from flask import Flask, Request, Response, g, has_request_context
from flask import request as current_request

from chio_core.client.client import SyncChioClient
from chio_core.evaluation.governed import RouteMatch
from chio_core.evaluation.outcomes import Decision
from chio_core.evaluation.policies import ViewPolicies
from chio_core.evaluation.sources import CapabilityFunction
from chio_core.identity import Extractor
from chio_core.models.receipt import HttpReceipt
from chio_core.names import (
    ENVIRON_CONTEXT,
    STATE_DECISION,
    STATE_NAMESPACE,
    STATE_PASSTHROUGH,
    STATE_RECEIPT,
)
from chio_core.refusals.problems import RefusalPage
from chio_core.refusals.response import Denial
from chio_core.settings import ChioSettings
from chio_core.settings_report import start_line
from chio_core.telemetry.notices import announce
from chio_core.threads.context import RequestContext, Runtime, SyncAdapter
from chio_core.threads.guards import ChainRunner
from chio_flask.listing import routes_for_embedded
from chio_flask.routing import find_view, view_match
from chio_flask.view import FlaskGuardRequest, session_of

_POLICIES: Final = "view_policies"
_NAMES: Final = {f"CHIO_{field.upper()}": field for field in (*ChioSettings.model_fields, _POLICIES)}


class LiveRuntime:
    """The runtime for an application's configuration as it is now.

    Args:
        app: the application; its `CHIO_*` configuration counts.
        options: keywords, which precede the configuration.
        guards: guards around the decision.
        config: complete settings instead of both.
        client: a client to share.
        extractor, on_decision, on_receipt, refusal_page, view_policies, capability: see `chio_flask.Chio`.

    Raises:
        ConfigurationError: the options cannot be used.
    """

    def __init__(
        self,
        app: Flask,
        options: Mapping[str, Any],
        guards: ChainRunner,
        config: ChioSettings | None = None,
        client: SyncChioClient | None = None,
        extractor: Extractor | None = None,
        on_decision: Callable[[Decision], None] | None = None,
        on_receipt: Callable[[HttpReceipt], None] | None = None,
        refusal_page: RefusalPage | None = None,
        view_policies: Mapping[str, Any] | None = None,
        capability: CapabilityFunction | None = None,
    ) -> None:
        self._app = app
        self._view_policies = view_policies
        self._capability = capability
        self._options = options
        self._config = config if config is not None or client is None else client.settings
        self._client = client
        self._hooks = (extractor, on_decision, on_receipt, refusal_page)
        self._guards = guards
        self._lock = threading.Lock()
        self._seen = self._configured()
        self._now = self._new(self._seen)

    def get(self) -> Runtime:
        """Return the present runtime."""
        configured = self._configured()
        if configured != self._seen:
            with self._lock:
                if configured != self._seen:
                    old, self._now = self._now, self._new(configured)
                    self._seen = configured
                    old.close()
                    announce(start_line(self._now.settings))  # the line of the start no longer holds
        return self._now

    def use(self, client: SyncChioClient | None) -> None:
        """Send calls through another client, with all other settings as they are; None: as before. For tests."""
        with self._lock:
            old, self._now = self._now, self._new(self._seen, client)
        old.close()

    def close(self) -> None:
        """Close the connections, those of guards included."""
        self._now.close()
        self._guards.close()

    def _configured(self) -> dict[str, Any]:
        config = self._app.config
        return {field: config[name] for name, field in _NAMES.items() if name in config}

    def _new(self, configured: Mapping[str, Any], client: SyncChioClient | None = None) -> Runtime:
        stated = configured.get(_POLICIES) if self._view_policies is None else self._view_policies
        policies = ViewPolicies(stated)
        options = {**{name: value for name, value in configured.items() if name != _POLICIES}, **self._options}
        return Runtime(
            self._config if self._config is not None else ChioSettings(**options),
            self._guards,
            *self._hooks,
            capability=self._capability,
            session=session_of,
            sync_client=client or self._client,
            document=partial(routes_for_embedded, self._app, policies),
            policies=policies,
        )


class FlaskAdapter(SyncAdapter):
    """The steps of a Flask request.

    Args:
        app: the application.
        request: Flask's request, or one that was made before Flask has its own.
        context: its facts, requirement and decision so far.
        path_params: the arguments that the view is called with, by name; those of the URL if left out.

    Attributes:
        app: the application.
    """

    def __init__(
        self, app: Flask, request: Request, context: RequestContext, path_params: Mapping[str, Any] | None = None
    ) -> None:
        pipeline = context.runtime.pipeline
        view = FlaskGuardRequest(request, app, singletons=pipeline.singletons, limits=pipeline.limits)
        super().__init__(view, context)
        self.app = app
        self._request = request
        self._path_params = path_params

    def locate(self) -> RouteMatch:
        """Return the view that will run: Flask's own match, once there is one."""
        request, policies = self._request, self.context.runtime.policies
        if request.url_rule is None:
            match = find_view(self.app, request, policies)
        else:
            match = view_match(self.app, request.url_rule, request.view_args, request.method, policies)
        return match if self._path_params is None else replace(match, path_params=self._path_params)

    def publish(self, decision: Decision | None) -> None:
        """Put a decision on the state of the guards, and on `g` once Flask has made its context for this request."""
        setattr(self.view.state, STATE_DECISION, decision)
        if not has_request_context() or current_request._get_current_object() is not self._request:  # type: ignore[attr-defined]
            return
        setattr(g, STATE_DECISION, decision)
        setattr(g, STATE_RECEIPT, decision.handler_receipt if decision is not None else None)
        setattr(g, STATE_PASSTHROUGH, decision.passthrough if decision is not None else None)
        setattr(g, STATE_NAMESPACE, self.view.state)


def begin(environ: dict[str, Any], runtime: Runtime) -> RequestContext:
    """Put a new context into a request's environment and return it."""
    context = environ[ENVIRON_CONTEXT] = RequestContext(runtime, environ)
    return context


def context_in(environ: Mapping[str, Any]) -> RequestContext | None:
    """Return the context of a request that has come through the extension."""
    found = environ.get(ENVIRON_CONTEXT)
    return found if isinstance(found, RequestContext) else None


def refusal(denial: Denial, request: Request) -> Response:
    """Return a refusal of a request with a context: the flat envelope, or a page."""
    context: RequestContext = request.environ[ENVIRON_CONTEXT]
    body, headers = context.document(denial, FlaskGuardRequest(request))
    return Response(body, status=denial.status, headers=list(headers))
