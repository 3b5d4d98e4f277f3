"""FlaskGuardRequest: the view of a request over Flask's `Request`; and its session, opened by Flask or here."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import unquote, urlencode

from flask import Flask, Request, current_app, has_app_context, has_request_context, session
from flask import request as current_request

from chio_core import identity
from chio_core.errors import ConfigurationError
from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
from chio_core.request import RequestView
from chio_core.threads.wsgi_view import SINGLETONS, EnvironView
from chio_flask.routing import find_view


class FlaskGuardRequest(EnvironView):
    """A `chio_core.GuardRequest` for one Flask request.

    Args:
        request: Flask's request.
        app: the application; the current one otherwise.
        singletons: headers, in lower case, whose repetition matters.
        limits: for the body.
    """

    def __init__(
        self,
        request: Request,
        app: Flask | None = None,
        *,
        singletons: Collection[str] = SINGLETONS,
        limits: BodyLimits = NO_LIMITS,
    ) -> None:
        super().__init__(request.environ, singletons, limits)
        self._request = request
        self._app = app

    @property
    def request(self) -> Request:
        """Flask's request."""
        return self._request

    @property
    def app(self) -> Flask | None:
        """The application, as far as it is known."""
        return self._app or (current_app._get_current_object() if has_app_context() else None)  # type: ignore[attr-defined]

    @property
    def url_path(self) -> str:
        """Decoded path, script name included."""
        return self._request.root_path + self._request.path

    @property
    def route_path(self) -> str:
        """The string that the URL map matches; several slashes at its start count as one there."""
        return self._request.path

    @property
    def query_string(self) -> str:
        """The raw query; bytes that are not UTF-8 are in it as `request.args` has them: quoted again (`%FF`)."""
        query = super().query_string
        with suppress(UnicodeDecodeError):
            unquote(query, errors="strict")
            return query
        # The view may have read `request.args` before, and something inside may change the environment later.
        with suppress(UnicodeDecodeError):  # bytes that are not quoted: the view cannot read `request.args` either
            query = urlencode([*Request(dict(self.environ), populate_request=False).args.items(multi=True)])
        return query

    @property
    def url_scheme(self) -> str:
        """`http` or `https`."""
        return self._request.scheme

    @property
    def scope(self) -> dict[str, Any]:
        """`app`, `route` (the URL rule that will run), and the TLS extension where there is a client certificate."""
        found = self.tls()
        app = self.app
        if app is not None:
            found["app"] = app
        route = self._request.url_rule
        if route is None and app is not None:
            route = find_view(app, self._request).route
        if route is not None:
            found["route"] = route
        return found


def session_of(view: RequestView) -> Any:
    """Return the session of a request: the one that its view has, else as Flask's session interface opens it.

    Raises:
        ConfigurationError: the application has no sessions.
    """
    if not isinstance(view, FlaskGuardRequest) or view.app is None:
        raise ConfigurationError("a session is read from a request of Flask; this one is not")
    if has_request_context() and current_request._get_current_object() is view.request:  # type: ignore[attr-defined]
        # The session itself: its proxy has every method, also those of an awaitable.
        return session._get_current_object()  # type: ignore[attr-defined]
    # Chio precedes all of the application, so Flask has not opened it yet. What is opened here is never saved.
    found = view.app.session_interface.open_session(view.app, view.request)
    if found is None:
        raise ConfigurationError("this application has no sessions: set its secret_key")
    return found


from_session = partial(identity.from_session, session_of)
"""Return an extractor for the user in a session, `from_session("user_id")`; see `chio_core.identity.from_session`."""
