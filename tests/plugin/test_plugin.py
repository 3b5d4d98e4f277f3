"""The plugin as pytest loads it, and test files as users write them."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module

import pytest

from tests.examples.running import run
from tests.project.tree import ROOT

PLUGIN = ("--disable-plugin-autoload", "-p", "chio_pytest", "-p", "no:cacheprovider")

APPLICATION = """
    from fastapi import Depends, FastAPI
    from chio_fastapi import RequireCapability, add_chio

    app = FastAPI()
    add_chio(app, exclude_paths={"/healthz"})

    @app.get("/hello")
    async def hello():
        return {"message": "hello"}

    @app.get("/healthz")
    async def healthz():
        return {"status": "up"}

    @app.post("/transfers", dependencies=[Depends(RequireCapability("payments", "transfer"))])
    async def transfer():
        return {"status": "transferred"}

    @app.post("/refunds")  # its author forgot Depends(RequireCapability("payments", "refund"))
    async def refund():
        return {"status": "refunded"}
"""


@pytest.fixture
def user(pytester: pytest.Pytester) -> pytest.Pytester:
    """The folder of a user, with an application in it."""
    pytester.makepyfile(shop=APPLICATION)
    pytester.makeconftest(
        """
        import pytest
        from fastapi.testclient import TestClient
        from shop import app

        @pytest.fixture
        def client(chio):
            with TestClient(chio.require_receipts(chio.connect(app))) as client:
                yield client
        """
    )
    pytester.syspathinsert()
    return pytester


def test_pytest_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert hasattr(import_module(project["entry-points"]["pytest11"]["chio_pytest"]), "chio")


def test_the_tests_of_a_user_pass(user: pytest.Pytester) -> None:
    user.makepyfile(
        """
        def test_hello(client, chio):
            response = client.get("/hello")
            assert response.status_code == 200
            assert chio.receipt_of(response).verdict.is_allow

        def test_transfer_needs_a_capability(client, chio):
            assert client.post("/transfers").status_code == 401
            chio.assert_requires("POST", "/transfers", "payments/transfer")

        def test_transfer(client, chio):
            token = chio.capability("payments", "transfer")
            assert client.post("/transfers", headers=chio.headers(token)).status_code == 200

        def test_closed(client, chio):
            with chio.deny(reason="closed"):
                assert client.get("/hello").json()["message"] == "closed"

        def test_sidecar_down(client, chio):
            with chio.down():
                assert client.get("/hello").status_code == 503
        """
    )
    user.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=5)


FAILING = {
    "a Depends is missing": (
        """
        def test_refund(client, chio):
            client.post("/refunds", headers=chio.headers())
            chio.assert_requires("POST", "/refunds", "payments/refund")
        """,
        'E*POST /refunds required no capability by name*Depends(RequireCapability("payments", "refund"))?',
    ),
    "a handler runs without a receipt": (
        """
        def test_health(client):
            assert client.get("/healthz").status_code == 200
        """,
        "E*GET /healthz was answered with status 200, but no receipt that allows it was stored*",
    ),
    "a tampered receipt is expected to pass": (
        """
        def test_tampered(client, chio):
            chio.tamper("changed_status")
            response = client.get("/hello")
            assert response.json()["error"] == "chio_invalid_receipt"
            assert response.status_code == 200
        """,
        "E*assert 502 == 200",
    ),
}


@pytest.mark.parametrize("where", FAILING)
def test_the_test_of_a_user_fails_where(where: str, user: pytest.Pytester) -> None:
    text, line = FAILING[where]
    user.makepyfile(text)
    done = user.runpytest_inprocess(*PLUGIN)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines([line])


def test_each_test_has_a_sidecar_of_its_own(user: pytest.Pytester) -> None:
    user.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("turn", [1, 2])
        def test_alone(client, chio, turn):
            assert chio.asked == []
            chio.deny()
            client.get("/hello")
        """
    )
    user.runpytest_inprocess(*PLUGIN).assert_outcomes(passed=2)


def test_the_fixture_is_described_where_pytest_lists_fixtures(user: pytest.Pytester) -> None:
    done = user.runpytest_inprocess(*PLUGIN, "--fixtures")
    done.stdout.fnmatch_lines(["chio *", "    A sidecar that really signs, for one test*"])


def test_tests_that_do_not_ask_for_it_load_nothing_and_see_no_change(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, sys, threading

        def test_nothing():
            assert "chio_pytest" in sys.modules
            assert not {name.split(".")[0] for name in sys.modules} & {"chio_core", "pydantic", "httpx", "nacl"}
            assert not [name for name in os.environ if name.startswith("CHIO_")]
            assert threading.active_count() == 1
        """
    )
    path = f"{ROOT}{os.pathsep}{ROOT / 'adapters'}"
    done = run(sys.executable, "-m", "pytest", *PLUGIN, cwd=pytester.path, PYTHONPATH=path)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_nothing_of_it_is_imported_by_what_an_application_imports() -> None:
    for folder in ("chio_core", "chio_asgi", "chio_fastapi", "adapters/chio_django", "adapters/chio_flask"):
        for module in (ROOT / folder).rglob("*.py"):
            if "testing" not in module.parts:
                assert "chio_core.testing" not in module.read_text(encoding="utf-8"), module
