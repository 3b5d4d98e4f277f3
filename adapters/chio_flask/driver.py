"""The driver: Chio around `app.wsgi_app`.

It stands around the whole application, so that nothing of it runs unjudged: not the functions that others have
registered for `before_request`, no session look-up, no static file, no error handler. The answer is passed on as
it is; only its head gets the receipt header.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Request, request, request_started
from werkzeug.exceptions import HTTPException
from werkzeug.wsgi import ClosingIterator

from chio_core.guards.chain import Chain
from chio_core.names import ENVIRON_INPUT, LOGGER
from chio_core.refusals.problems import render
from chio_core.refusals.response import Denial
from chio_core.settings import ChioSettings
from chio_core.threads.body import is_kept
from chio_core.threads.wsgi_view import accept_in
from chio_flask.chain_request import Guarded, status_line, tagged
from chio_flask.context import LiveGovernor, Passage, passage_in, refusal

log = logging.getLogger(LOGGER)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
WSGIApp = Callable[[Environ, StartResponse], Iterable[bytes]]


class ChioDenied(HTTPException):
    """A refusal after Flask has begun with a request.

    It has no `code`, so that no error handler of the application turns it into something else.
    """

    def __init__(self, denial: Denial, refused: Request) -> None:
        super().__init__(denial.message, response=refusal(denial, refused))
        self.denial = denial


class GovernedApp:
    """A WSGI application that judges every request before Flask sees it.

    Args:
        app: the application.
        inner: its `wsgi_app` so far.
        governor: settings and client.
    """

    def __init__(self, app: Flask, inner: WSGIApp, governor: LiveGovernor) -> None:
        self._app = app
        self._inner = inner
        self.governor = governor
        request_started.connect(self._started, app)

    @property
    def chain(self) -> Chain:
        """The guards around the decision, in their order."""
        return self.governor.get().guards.chain

    @property
    def settings(self) -> ChioSettings:
        """The present options."""
        return self.governor.get().settings

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        governor = self.governor.get()
        passage = Passage(self._app, environ, governor)
        # Not the object that Flask makes: that one comes into being with Flask's own context.
        request = self._app.request_class(environ, populate_request=False)
        if not governor.guards.is_empty:
            return _closing(Guarded(passage, self._inner, environ, start_response).run(request), environ)
        denial = passage.judge(request)

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, tagged(headers, passage), exc_info)

        if denial is not None:
            body, headers = render(denial, accept=accept_in(environ))
            start(status_line(denial.status), list(headers))
            return _closing([body], environ)
        return _closing(self._inner(environ, start), environ)

    def _started(self, sender: Flask, **_: Any) -> None:
        # Sent by Flask before anything else of the application runs for this request, and after the URL is matched.
        passage = passage_in(request.environ)
        if passage is None:
            return
        current: Request = request._get_current_object()  # type: ignore[attr-defined]
        denial = passage.judge_matched(current)
        passage.publish(current)
        if denial is not None:
            log.warning("chio: WSGI middleware inside of Chio changed which view runs, and that is refused")
            raise ChioDenied(denial, current)


def _closing(body: Iterable[bytes], environ: Environ) -> Iterable[bytes]:
    file = environ.get(ENVIRON_INPUT)
    if file is not None and is_kept(file):
        return ClosingIterator(body, [file.close])
    return body
