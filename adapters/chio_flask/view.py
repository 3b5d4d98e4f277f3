"""FlaskGuardRequest: the view of a request over Flask's `Request`."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlencode

from flask import Flask, Request, current_app, has_app_context

from chio_core.evaluation.body_limits import NO_LIMITS, BodyLimits
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
