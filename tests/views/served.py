"""Applications for real servers: `application` (Django, WSGI), `asgi` (Django, ASGI) and `flask_app`.

They are governed by what the environment says (`CHIO_*`).
"""

from __future__ import annotations

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler

from chio_flask import Chio
from tests.django import project  # noqa: F401 - configures Django
from tests.flask.apps import make

application = WSGIHandler()
asgi = ASGIHandler()
flask_app = make()
Chio(flask_app)
