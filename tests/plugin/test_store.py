"""Tests leave no trace: whatever runs them, the configured store is byte for byte as it was."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from chio_core import Requirement
from chio_core.evaluation.outcomes import issue_hint
from chio_core.scratch import replaced, replaces
from tests.examples.running import ROOT, environment

FASTAPI = """
from fastapi import FastAPI
from chio_fastapi import add_chio
app = FastAPI()
add_chio(app, sidecar_url="embedded:chio.sqlite3")
app.get("/hello")(lambda: "hello")
"""
FLASK = """
from flask import Flask
from chio_flask import Chio
app = Flask("shop")
Chio(app, sidecar_url="embedded:chio.sqlite3")
app.get("/hello")(lambda: "hello")
"""
DJANGO = """
import sys
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
if not settings.configured:
    settings.configure(ROOT_URLCONF="shop", INSTALLED_APPS=["chio_django"], CHIO_SIDECAR_URL="embedded:chio.sqlite3",
                       MIDDLEWARE=["chio_django.ChioDjangoMiddleware"], ALLOWED_HOSTS=["127.0.0.1"])
urlpatterns = [path("hello", lambda request: HttpResponse("hello"))]
if __name__ == "__main__":
    from django.core.management import execute_from_command_line
    sys.modules["shop"] = sys.modules["__main__"]
    execute_from_command_line(sys.argv)
"""
FUNCTION = """
from fastapi.testclient import TestClient
from shop import app

def test_hello():
    with TestClient(app) as client:
        response = client.get("/hello")
    assert (response.status_code, bool(response.headers["X-Chio-Receipt"])) == (200, True)
"""
CASE = """
from unittest import TestCase
from shop import app

class Hello(TestCase):
    def test_hello(self):
        response = app.test_client().get("/hello")
        self.assertEqual((response.status_code, bool(response.headers["X-Chio-Receipt"])), (200, True))
"""
DJANGO_CASE = """
from django.test import SimpleTestCase

class Hello(SimpleTestCase):
    def test_hello(self):
        response = self.client.get("/hello")
        self.assertEqual((response.status_code, bool(response.headers["X-Chio-Receipt"])), (200, True))
"""
RUNS = {
    "pytest": (FASTAPI, FUNCTION, "-m pytest -q -p no:cacheprovider -p chio_pytest test_shop.py"),
    "unittest": (FLASK, CASE, "-m unittest test_shop"),
    "manage.py test": (DJANGO, DJANGO_CASE, "shop.py test"),
}


def trace(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("chio.sqlite3*")}


def ran(folder: Path, arguments: str, **more: str) -> None:
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    paths = f"{folder}:{ROOT}:{ROOT / 'adapters'}"
    told = environment(PYTHONPATH=paths, TMPDIR=str(temporary), **more)
    done = subprocess.run(
        [sys.executable, *arguments.split()], cwd=folder, env=told, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(temporary.glob("chio-tests-*")) == []


@pytest.mark.parametrize("run", RUNS)
def test_the_configured_store_is_byte_for_byte_unchanged_unless_the_run_asks(run: str, tmp_path: Path) -> None:
    source, tests, arguments = RUNS[run]
    (tmp_path / "shop.py").write_text(source)
    (tmp_path / "test_shop.py").write_text(tests)
    ran(tmp_path, arguments)
    assert trace(tmp_path) == {}, "neither a store nor a key is made"
    ran(tmp_path, arguments, CHIO_TEST_STORE="configured")
    before = trace(tmp_path)
    assert {"chio.sqlite3", "chio.sqlite3.key"} <= set(before)
    ran(tmp_path, arguments, CHIO_TRUSTED_KERNEL_KEYS="ab" * 32)  # pins of the configured key do not count either
    assert trace(tmp_path) == before


def test_a_store_among_temporary_files_belongs_to_the_test(tmp_path: Path) -> None:
    assert not replaces(f"embedded:{tmp_path}/chio.sqlite3")
    assert replaces("embedded:/var/lib/shop/chio.sqlite3?spec=a.yaml")
    assert replaced("embedded:/var/lib/shop/chio.sqlite3?spec=a.yaml").endswith("-chio.sqlite3?spec=a.yaml")
    assert not replaces("http://127.0.0.1:9090")


def test_a_hint_in_a_test_issues_nothing_from_the_configured_store() -> None:
    hint = issue_hint(Requirement("shop", "order"), "embedded:/var/lib/shop/chio.sqlite3")
    assert hint == {"hint": "in a test, with the fixture chio: headers=chio.headers(chio.capability('shop', 'order'))"}
