"""What a person sees who starts a server as it comes, with no word about logging in the application."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.running import ROOT, environment, free_port

FASTAPI = """
from fastapi import FastAPI
from chio_fastapi import add_chio
app = FastAPI()
add_chio(app)
@app.post("/orders/{number}")
async def order(number: int): ...
"""
FLASK = """
from flask import Flask
from chio_flask import Chio
app = Flask(__name__)
Chio(app)
@app.post("/orders/<int:number>")
def order(number): ...
"""
DJANGO = """
import sys
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.conf import settings
from django.urls import path
settings.configure(DEBUG=True, ROOT_URLCONF="app", ALLOWED_HOSTS=["*"], INSTALLED_APPS=["chio_django"],
                   MIDDLEWARE=["chio_django.ChioDjangoMiddleware"])
urlpatterns = [path("orders/<int:number>", lambda request, number: None)]
if __name__ == "__main__":
    sys.modules["app"] = sys.modules["__main__"]
    execute_from_command_line(sys.argv)
app = get_wsgi_application()
"""
SERVERS = {
    "uvicorn": (FASTAPI, "uvicorn app:app --port {port}", "Uvicorn running"),
    "gunicorn-flask": (FLASK, "gunicorn app:app -b 127.0.0.1:{port}", "Booting worker"),
    "gunicorn-django": (DJANGO, "gunicorn app:app -b 127.0.0.1:{port}", "Booting worker"),
    "flask-run": (FLASK, "flask run --port {port}", "Running on"),
    "runserver": (DJANGO, "{python} app.py runserver --noreload --skip-checks {port}", "Quit the server"),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    source, command, _ = SERVERS[request.param]
    (tmp_path / "app.py").write_text(source)
    port = free_port()
    words = command.format(port=port, python=sys.executable).split()
    if words[0] != sys.executable:
        words = [sys.executable, "-m", *words]
    told = environment(
        PYTHONPATH=f"{ROOT}:{ROOT / 'adapters'}:{tmp_path}",
        PYTHONUNBUFFERED="1",
        CHIO_SIDECAR_URL="embedded:terminal.sqlite3",
    )
    with subprocess.Popen(
        words, cwd=tmp_path, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process, port
        finally:
            process.terminate()


def test_the_start_and_the_first_refusal_of_a_route_are_seen(
    request: pytest.FixtureRequest, server: tuple[subprocess.Popen[str], int]
) -> None:
    process, port = server
    assert process.stdout is not None
    lines = []
    ready = SERVERS[request.node.callspec.params["server"]][2]
    for line in process.stdout:
        lines.append(line)
        if ready in line:
            break
    for number in (1, 2):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/orders/{number}", data=b"{}", timeout=60)
    process.terminate()
    lines += process.stdout
    text = "".join(lines)
    assert text.count("chio: requests are evaluated by the sidecar embedded:terminal.sqlite3") == 1, text
    (warning,) = [line for line in lines if "chio: refused POST /orders/{number}: 403" in line]
    assert "To do: present a capability (chio-sidecar capability issue --receipt-store terminal.sqlite3" in warning
