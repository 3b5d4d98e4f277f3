"""Under gevent Flask and Django are governed without threads, or refuse to start and name the remedy.

gevent is no dependency of this distribution, only one of its tests.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from chio_core.testing import ScriptedSidecar
from tests.project.tree import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="gevent is not installed")

FLASK = """
from flask import Flask
from chio_flask import Chio

app = Flask("greenlets")
Chio(app, guards=guards, sidecar_url=url)
app.add_url_rule("/", view_func=lambda: "ok")
statuses = [app.test_client().get("/").status_code]
"""
DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__, MIDDLEWARE=["chio_django.ChioDjangoMiddleware"], CHIO_SIDECAR_URL=url, CHIO_GUARDS=guards,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, ALLOWED_HOSTS=["*"],
)
django.setup()
from django.db import connection
from django.test import Client

def view(request):
    connection.cursor().execute("SELECT 1")  # refused to a thread with a running event loop
    return HttpResponse("ok")

urlpatterns = [path("", view)]
statuses = [Client().get("/").status_code]
"""
START = """
import sys
from gevent import monkey

monkey.patch_all()
url = sys.argv[1]

async def wrapping(request, next):
    return await next(request)

guards = [wrapping] if sys.argv[2] == "wrapping" else []
"""


def started(app: str, url: str, guards: str = "none") -> subprocess.CompletedProcess[str]:
    """Start an application under gevent and send it a request."""
    script = f"{START}\n{app}\nprint(statuses)"
    return subprocess.run(
        [sys.executable, "-c", script, url, guards], capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip


apps = pytest.mark.parametrize("app", [FLASK, DJANGO], ids=["flask", "django"])


@apps
def test_a_sidecar_of_its_own_needs_no_threads(app: str) -> None:
    with ScriptedSidecar().serving_in_thread() as sidecar:
        done = started(app, sidecar.url)
    assert done.stdout == "[200]\n", done.stderr


@apps
@pytest.mark.parametrize(
    ("embedded", "guards", "purpose"),
    [(True, "none", "an embedded sidecar"), (False, "wrapping", "a guard that waits or takes next")],
)
def test_what_needs_threads_is_refused_at_the_start(app: str, embedded: bool, guards: str, purpose: str) -> None:
    done = started(app, "embedded::memory:" if embedded else "http://127.0.0.1:1", guards)
    assert done.stdout == ""
    assert f"ConfigurationError: {purpose} needs threads of the operating system, and gevent has" in done.stderr
    assert "gunicorn -k gthread" in done.stderr
