"""`openapi` and `check` read projects of Django and applications of Flask, and name what they do not understand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import prefork
from tests.sidecar.control_tools import DEADLINE, ROOT, CommandLine

FILES = {
    "project_settings.py": """
from chio_django import Policy
SECRET_KEY = "for tests only"
ROOT_URLCONF = "project_urls"
ALLOWED_HOSTS = ["*"]
MIDDLEWARE = ["chio_django.ChioDjangoMiddleware"]
CHIO_VIEW_POLICIES = {"login": Policy(side_effects=False), "nowhere:*": Policy(side_effects=False)}
""",
    "bare_settings.py": "from project_settings import *\nMIDDLEWARE = []\nCHIO_VIEW_POLICIES = {}\n",
    "project_urls.py": """
from django.http import HttpResponse
from django.urls import path
from chio_django import Budget
view = lambda request, **params: HttpResponse("ran")
urlpatterns = [path("login/", view, name="login"), path("spend/<int:n>/", Budget()(view))]
""",
    "project_wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()\n",
    "project_asgi.py": "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n",
    "shop.py": """
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix
from chio_flask import Chio, Policy
def create_app(governed=True):
    app = Flask("shop", static_folder=None)
    app.add_url_rule("/login", "login", Policy(side_effects=False)(lambda: "in"), methods=["POST"])
    if governed:
        Chio(app)
    return app
app, bare = create_app(), create_app(False)
proxied = ProxyFix(create_app())
async def asgi(scope, receive, send): ...
""",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a project of Django and applications of Flask, as the working directory."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("CHIO_SIDECAR_URL", "http://127.0.0.1:9090")
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    sys.modules.pop("shop", None)
    yield tmp_path
    sys.modules.pop("shop", None)  # other tests have a module of that name too


def django(folder: Path, settings: str, *arguments: str) -> tuple[int, str]:
    """Run a command in a process of its own: Django has one configuration in each."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "adapters")))
    env = {**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": settings}
    done = prefork.run("chio_sidecar.cli", arguments, cwd=folder, env=env, timeout=DEADLINE)
    return done.returncode, done.stdout


@pytest.mark.parametrize("place", [[], ["project_asgi:application"]])
def test_the_document_of_a_django_project_states_its_policy(folder: Path, place: list[str]) -> None:
    status, text = django(folder, "project_settings", "openapi", *place)
    paths = json.loads(text)["paths"]
    assert (status, paths["/login/"]["post"]["x-chio-side-effects"]) == (0, False)
    assert set(paths) == {"/login/", "/spend/{n}/"}


def test_check_reads_a_django_project(folder: Path) -> None:
    status, text = django(folder, "project_settings", "check", "project_wsgi:application")
    assert status == 0
    assert "WARN  chio.W010: CHIO_VIEW_POLICIES: 'nowhere:*' fits no view. Name a URL pattern, " in text
    assert "WARN  budget_without_limit: DELETE|GET|" in text
    assert "not_governed" not in text


def test_check_says_that_a_django_project_is_not_governed(folder: Path) -> None:
    status, text = django(folder, "bare_settings", "check")
    assert (status, text.split(":")[0]) == (1, "ERROR not_governed")


@pytest.mark.parametrize("place", ["shop:app", "shop:create_app()", "shop:proxied", "shop:bare"])
def test_the_document_of_a_flask_application_states_its_policy(folder: Path, cli: CommandLine, place: str) -> None:
    assert json.loads(cli("openapi", place))["paths"]["/login"]["post"]["x-chio-side-effects"] is False


@pytest.mark.parametrize("place", ["shop:app", "shop:create_app()", "shop:proxied"])
def test_check_reads_a_governed_flask_application(folder: Path, cli: CommandLine, place: str) -> None:
    assert cli("check", place).startswith("INFO  middleware_chain: decide (0)")


def test_check_demands_csrf_protection_of_flask_where_the_session_has_the_capability(
    folder: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHIO_CAPABILITY_SOURCE", "session")
    assert "install Flask-WTF and call CSRFProtect(app)" in cli("check", "shop:app")


def test_check_says_that_a_flask_application_is_not_governed(folder: Path, cli: CommandLine) -> None:
    assert cli("check", "shop:bare", status=1).startswith("ERROR not_governed: ")


@pytest.mark.parametrize("place", ["shop:create_app", "shop:asgi", "shop:Flask"])
def test_check_never_says_that_of_what_it_does_not_understand(folder: Path, cli: CommandLine, place: str) -> None:
    text = cli("check", place, status=1)
    assert text.startswith("ERROR not_understood: ")
    assert "MODULE:FUNCTION() for a function that makes it" in text


@pytest.mark.parametrize("command", ["check", "openapi"])
def test_without_an_application_and_without_django_it_says_what_to_name(
    folder: Path, cli: CommandLine, command: str
) -> None:
    assert "name MODULE:APP, or set DJANGO_SETTINGS_MODULE" in cli.fails(command)
