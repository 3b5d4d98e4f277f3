"""Sessions under ASGI: what a session middleware outside Chio, such as Starlette's, has put on the scope."""

from __future__ import annotations

from functools import partial
from typing import Any

from chio_core import identity
from chio_core.errors import ConfigurationError
from chio_core.request import RequestView


def session_of(view: RequestView) -> Any:
    """Return the session of a request.

    Raises:
        ConfigurationError: no session middleware is outside Chio.
    """
    session = view.scope.get("session")
    if session is None:
        raise ConfigurationError(
            "no session was read before Chio: add SessionMiddleware after Chio, so that it is outside"
        )
    return session


from_session = partial(identity.from_session, session_of)
"""Return an extractor for the user in a session, `from_session("user_id")`; see `chio_core.identity.from_session`."""
