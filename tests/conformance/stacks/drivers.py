"""Drivers: one stack each, a framework behind the server that it is usually run with.

A driver says with which command the stack listens on a socket that is open already. The applications are those of
`tests/faces/apps`; to hold another framework to the same requests, add one line here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

APPS = "tests.faces.apps"


@dataclass(frozen=True)
class Driver:
    """One stack.

    Attributes:
        name: how tests and docs/frameworks.md call it.
        app: `module:function` that makes its application, below `tests/faces/apps`.
        server: `uvicorn` or `gunicorn`.
    """

    name: str
    app: str
    server: str

    def command(self, socket: int) -> Sequence[str]:
        """Return what to run; the server listens on this file descriptor."""
        app = f"{APPS}.{self.app}"
        if self.server == "uvicorn":
            return [sys.executable, "-m", *UVICORN, "--fd", str(socket), "--factory", app]
        return [sys.executable, "-m", *GUNICORN, "--bind", f"fd://{socket}", f"{app}()"]


UVICORN = ("uvicorn", "--log-level", "warning", "--timeout-graceful-shutdown", "1")
GUNICORN = ("gunicorn", "-k", "gthread", "--threads", "4", "--graceful-timeout", "1", "--log-level", "warning")

DRIVERS = (
    Driver("fastapi", "fastapi_app:governed", "uvicorn"),
    Driver("starlette", "starlette_app:governed", "uvicorn"),
    Driver("django-wsgi", "django_app:wsgi", "gunicorn"),
    Driver("django-asgi", "django_app:asgi", "uvicorn"),
    Driver("flask", "flask_app:governed", "gunicorn"),
)

REFERENCE = "fastapi"
"""The stack that the others are compared with."""
