"""Sessions of Django, before and after Django's middleware has read them for a request."""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY

from chio_core import identity
from chio_core.errors import ConfigurationError
from chio_core.request import RequestView
from chio_django.view import DjangoGuardRequest


def session_of(view: RequestView) -> Any:
    """Return the session of a request, loaded; in an event loop an awaitable of it.

    It is `request.session`, or what `SESSION_ENGINE` has stored for the cookie where Django's own middleware has not
    run yet. That is read only, so Django's middleware reads it again.

    Raises:
        ConfigurationError: the request is none of Django's.
    """
    if not isinstance(view, DjangoGuardRequest):
        raise ConfigurationError("a session is read from a request of Django; this one is not")
    request = view.request

    def load() -> Any:
        found = getattr(request, "session", None)
        if found is None:
            engine = import_module(settings.SESSION_ENGINE)
            found = engine.SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        found.get("")  # from the database, in this thread
        return found

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return load()
    return sync_to_async(load)()


def session_user(view: RequestView) -> Any:
    """Extract the user that `django.contrib.auth.login` has put into the session; for the setting `CHIO_EXTRACTOR`.

    Without one: client certificate, bearer token, API key, in this order.
    """
    return _session_user(view)


_session_user = identity.from_session(session_of, SESSION_KEY)
