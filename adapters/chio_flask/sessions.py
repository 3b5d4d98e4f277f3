"""Sessions of Flask, before and after Flask has opened them for a request."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import has_request_context, session
from flask import request as current_request

from chio_core import identity
from chio_core.errors import ConfigurationError
from chio_core.request import RequestView
from chio_flask.view import FlaskGuardRequest


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
