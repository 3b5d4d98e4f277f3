"""The driver: Chio around `app.wsgi_app`.

It wraps the whole application, so that nothing of it runs without an evaluation: no function registered for
`before_request`, no session look-up, no static file, no error handler. The response is passed on as it is; only its
head gets the receipt header.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from flask import Flask, Request, got_request_exception, request, request_started
from werkzeug.exceptions import HTTPException

from chio_core.errors import ConfigurationError
from chio_core.evaluation.governed import run
from chio_core.guards.chain import Chain
from chio_core.names import ENVIRON_CONTEXT, LOGGER
from chio_core.refusals.problems import render
from chio_core.refusals.response import Denial, misconfigured
from chio_core.settings import ChioSettings
from chio_core.threads.context import RequestContext
from chio_core.threads.wsgi_chain import Environ, StartResponse, WSGIApp, respond, status_line
from chio_core.threads.wsgi_view import accept_in
from chio_flask.context import FlaskAdapter, LiveRuntime, begin, context_in, refusal

log = logging.getLogger(LOGGER)

_WAITING: ContextVar[tuple[GovernedApp, RequestContext] | None] = ContextVar("chio_waiting", default=None)
"""The evaluated request that Flask has not started yet. Inner middleware may make a new environment for it."""


class ChioDenied(HTTPException):
    """A refusal after Flask has started a request.

    It has no `code`, so that no error handler of the application turns it into something else.
    """

    def __init__(self, denial: Denial, refused: Request) -> None:
        super().__init__(denial.message, response=refusal(denial, refused))
        self.denial = denial


class GovernedApp:
    """A WSGI application that evaluates every request before Flask sees it.

    Args:
        app: the application.
        inner: its `wsgi_app` so far.
        live: settings and client.
    """

    def __init__(self, app: Flask, inner: WSGIApp, live: LiveRuntime) -> None:
        self._app = app
        self._inner = inner
        self.live = live
        self._fault: str | None = None
        request_started.connect(self._started, app)

    @property
    def chain(self) -> Chain:
        """The guards around the decision, in their order."""
        return self.live.get().guards.chain

    @property
    def settings(self) -> ChioSettings:
        """The present options."""
        return self.live.get().settings

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        # Not the object that Flask makes: that one is made together with Flask's own context.
        request = self._app.request_class(environ, populate_request=False)
        try:
            runtime = self.live.get()
        except ConfigurationError as exc:  # the configuration has changed since the start
            if exc.message != self._fault:
                self._fault = exc.message
                log.error("chio: requests cannot be evaluated, and get a 500: %s", exc.message)
            body, headers = render(misconfigured(), accept=accept_in(environ))
            start_response(status_line(500), list(headers))
            return [body]
        self._fault = None
        context = begin(environ, runtime)
        adapter = FlaskAdapter(self._app, request, context)
        return respond(adapter, self._run, environ, start_response, self._failed)

    def _failed(self, exc: Exception) -> None:
        # As Flask does it: the exception is for the server in tests and in debug mode, otherwise for the log.
        app, configured = self._app, self._app.config["PROPAGATE_EXCEPTIONS"]
        if app.testing or app.debug if configured is None else configured:
            raise exc
        log.error("chio: a guard failed after the decision; the request gets a 500", exc_info=exc)
        got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=exc)

    def _run(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        token = _WAITING.set((self, environ[ENVIRON_CONTEXT]))
        try:
            return self._inner(environ, start_response)
        finally:
            _WAITING.reset(token)

    def _started(self, sender: Flask, **_: Any) -> None:
        # Sent by Flask before anything else of the application runs for this request, and after the URL is matched.
        current: Request = request._get_current_object()  # type: ignore[attr-defined]
        waiting = _WAITING.get()
        _WAITING.set(None)
        context = context_in(current.environ)
        if context is None and waiting is not None and waiting[0] is self:
            context = current.environ[ENVIRON_CONTEXT] = waiting[1]
        if context is None:
            # This request has not come through `wsgi_app`, or inner middleware has handed it to another thread.
            context = begin(current.environ, self.live.get())
        adapter, pipeline = FlaskAdapter(sender, current, context), context.runtime.pipeline
        changed, denial = pipeline.changes(adapter), None
        if changed:
            log.warning(
                "chio: WSGI middleware inside Chio changed the request's %s; it is evaluated again",
                " and ".join(changed),
            )
        if changed or context.governed.evaluated is None:
            denial = run(pipeline.govern(adapter))
        adapter.publish(context.decision)
        if denial is not None:
            raise ChioDenied(denial, current)
