"""What `init` writes for each framework: a first test, and the lines that a person writes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["TEST_FILE", "Starter", "starter"]

TEST_FILE: Final = "test_chio.py"

_PYTEST: Final = '''\
"""Chio governs this application. The fixture `chio` is a sidecar in the process of the test; no store is written."""

import pytest
{imports}


@pytest.fixture
def client(chio):
    return {client}


def test_a_request_is_evaluated_and_the_response_names_its_receipt(chio, client):
    response = client.get("/not-found")
    assert chio.last.path == "/not-found"
    assert chio.receipt_of(response).verdict.verdict == "allow"


def test_a_write_without_a_capability_is_denied(chio, client):
    client.post("/not-found")  # while the setting `observe` is on, the receipt alone says so
    assert chio.receipts[-1].verdict.verdict == "deny"
'''

_DJANGO: Final = '''\
"""Chio governs this project. `ChioFixture` is a sidecar in the process of the test; no store is written."""

from django.test import SimpleTestCase, override_settings

from chio_core.testing import ChioFixture


class ChioTests(SimpleTestCase):
    def setUp(self):
        self.chio = self.enterContext(ChioFixture())
        self.enterContext(override_settings(**self.chio.django))

    def test_a_request_is_evaluated_and_the_response_names_its_receipt(self):
        response = self.client.get("/not-found")
        self.assertEqual(self.chio.last.path, "/not-found")
        self.assertEqual(self.chio.receipt_of(response).verdict.verdict, "allow")

    def test_a_write_without_a_capability_is_denied(self):
        self.client.post("/not-found")  # while the setting `observe` is on, the receipt alone says so
        self.assertEqual(self.chio.receipts[-1].verdict.verdict, "deny")
'''


@dataclass(frozen=True)
class Starter:
    """What `init` writes for one application.

    Attributes:
        test: text of the test file.
        where: where in its file the lines of `govern` belong, as the start of a sentence.
        govern: the lines that govern the application.
        run: the command that runs the test.
        serve: the command that starts the application.
    """

    test: str
    where: str
    govern: tuple[str, ...]
    run: str
    serve: str


def starter(framework: str, place: str) -> Starter:
    """Return what is written for an application.

    Args:
        framework: "fastapi", "asgi", "flask" or "django".
        place: `MODULE:APP` or `MODULE:FACTORY()`; in Django the settings module.
    """
    if framework == "django":
        return Starter(
            _DJANGO,
            "At the end of",
            ('INSTALLED_APPS += ["chio_django"]', 'MIDDLEWARE.insert(0, "chio_django.ChioDjangoMiddleware")'),
            "python manage.py test",
            "python manage.py runserver",
        )
    module, _, made = place.partition(":")
    factory = made.removesuffix("()") if made.endswith("()") else None
    name, variable = factory or made, "app" if factory else made
    where = f"In {made}, after the application is made, in" if factory else "After the application in"
    run = f"python -m pytest {TEST_FILE}"
    if framework == "flask":
        test = _PYTEST.format(imports=f"\nfrom {module} import {name}", client=f"chio.connect({made}).test_client()")
        govern = ("from chio_flask import Chio", f"Chio({variable})")
        return Starter(test, where, govern, run, f"flask --app '{place}' run")
    library = "fastapi" if framework == "fastapi" else "starlette"
    imports = f"from {library}.testclient import TestClient\n\nfrom {module} import {name}"
    test = _PYTEST.format(imports=imports, client=f"TestClient(chio.connect({made}))")
    if framework == "fastapi":
        govern = ("from chio_fastapi import add_chio", f"add_chio({variable})")
    else:
        where = f"In {made}, before it returns, in" if factory else "At the end of"
        govern = ("from chio_asgi import ChioASGIMiddleware", f"{variable} = ChioASGIMiddleware({variable})")
    serve = f"uvicorn --factory {module}:{factory}" if factory else f"uvicorn {place}"
    return Starter(test, where, govern, run, serve)
