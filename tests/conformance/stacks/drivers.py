"""Drivers: one stack each, a framework behind the server that it is usually run with.

A driver says with which command the stack listens on a socket that is open already. To hold another framework to
the same requests, write its application under `apps/` and add one line here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

APPS = "tests.conformance.stacks.apps"


@dataclass(frozen=True)
class Driver:
    """One stack.

    Attributes:
        name: how tests and docs/frameworks.md call it.
        app: `module:attribute` of its application, below `apps/`.
        server: `uvicorn` or `gunicorn`.
    """

    name: str
    app: str
    server: str

    def command(self, socket: int) -> Sequence[str]:
        """Return what to run; the server listens on this file descriptor."""
        return [sys.executable, "-m", *SERVERS[self.server], f"{APPS}.{self.app}", *_LISTEN[self.server](socket)]


SERVERS = {
    "uvicorn": ("uvicorn", "--log-level", "warning", "--timeout-graceful-shutdown", "1"),
    "gunicorn": ("gunicorn", "-k", "gthread", "--threads", "4", "--graceful-timeout", "1", "--log-level", "warning"),
}
_LISTEN = {
    "uvicorn": lambda socket: ("--fd", str(socket)),
    "gunicorn": lambda socket: ("--bind", f"fd://{socket}"),
}

DRIVERS = (
    Driver("fastapi", "fastapi_app:app", "uvicorn"),
    Driver("starlette", "starlette_app:app", "uvicorn"),
    Driver("django-wsgi", "django_app:wsgi", "gunicorn"),
    Driver("django-asgi", "django_app:asgi", "uvicorn"),
    Driver("flask", "flask_app:app", "gunicorn"),
)

REFERENCE = "fastapi"
"""The stack that the others are compared with."""
