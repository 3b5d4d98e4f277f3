"""A script of another origin can read the receipt's id: the header is exposed to it, in every framework."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from chio_asgi import ChioASGIMiddleware
from chio_core.testing import ScriptedSidecar
from tests.conformance.drivers import DRIVERS, Driver
from tests.faces.faces import pointing_at
from tests.hostile import BEHAVIOURS
from tests.support import Reply, StubClient, call, run

PAGE = "https://page.test"
EXPOSE = "access-control-expose-headers"
GOVERNED = [DRIVERS[name] for name in ("fastapi", "starlette", "django", "django-async", "flask")]


def ask(driver: Driver, behaviour: str, *headers: tuple[str, str]) -> Mapping[str, str]:
    with ScriptedSidecar(BEHAVIOURS[behaviour]).serving_in_thread() as sidecar:
        content = ("content-type", "application/json")
        return driver.run(pointing_at(sidecar), driver.request((content, *headers))).headers


@pytest.mark.parametrize("driver", GOVERNED, ids=lambda driver: driver.name)
def test_a_response_to_a_script_exposes_its_receipt_and_no_other_response_does(driver: Driver) -> None:
    for behaviour in ("allow", "deny"):
        exposed = ask(driver, behaviour, ("origin", PAGE))
        assert exposed["x-chio-receipt"]
        assert exposed[EXPOSE].lower() == "x-chio-receipt"
        assert EXPOSE not in ask(driver, behaviour)
    assert EXPOSE not in ask(driver, "refuse_connections", ("origin", PAGE)), "there is no receipt to read"


def cors_around(outside: bool, **options: list[str]) -> Reply:
    app = Starlette(routes=[Route("/", PlainTextResponse("ok"))])
    chio = (ChioASGIMiddleware, {"client": StubClient()})
    cors = (CORSMiddleware, {"allow_origins": [PAGE], **options})
    for layer, keywords in (chio, cors) if outside else (cors, chio):
        app.add_middleware(layer, **keywords)  # type: ignore[arg-type]
    return run(call(app, "GET", "/", headers=[("origin", PAGE)]))


@pytest.mark.parametrize("outside", [True, False])
def test_cors_middleware_on_either_side_keeps_it(outside: bool) -> None:
    reply = cors_around(outside)
    assert (reply.header("access-control-allow-origin"), reply.header(EXPOSE)) == (PAGE, "x-chio-receipt")


def test_what_an_application_exposes_itself_stays_beside_it() -> None:
    headers = cors_around(False, expose_headers=["X-Total"]).headers
    assert [value for name, value in headers if name == EXPOSE] == ["X-Total", "x-chio-receipt"]


def test_a_list_of_the_cors_middleware_outside_is_the_one_that_counts() -> None:
    """As docs/guards.md says: then the receipt header has to be on it."""
    headers = cors_around(True, expose_headers=["X-Total", "X-Chio-Receipt"]).headers
    assert [value for name, value in headers if name == EXPOSE] == ["X-Total, X-Chio-Receipt"]
