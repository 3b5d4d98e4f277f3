"""Static files, frontends and mounted applications: what their receipts name, and which requirements count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.staticfiles import StaticFiles

from chio_core.testing import ChioFixture
from chio_fastapi import Budget, RequireCapability, add_chio

pytestmark = pytest.mark.skipif(not hasattr(APIRouter, "frontend"), reason="this FastAPI serves no frontends")


@pytest.fixture
def client(tmp_path: Path, chio: ChioFixture) -> Iterator[TestClient]:
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "index.html").write_text("<h1>")
    inner = FastAPI()

    @inner.get("/items/{item}")
    def item(item: str) -> str:
        return item

    guarded = APIRouter(dependencies=[Depends(RequireCapability("reports", "read"))])
    guarded.frontend("/reports", directory=str(tmp_path))
    counted = APIRouter(dependencies=[Depends(Budget(max_invocations=1))])
    counted.frontend("/counted", directory=str(tmp_path))
    app = FastAPI()
    app.include_router(guarded)
    app.include_router(counted)
    app.mount("/static", StaticFiles(directory=str(tmp_path)))
    app.mount("/api", inner)
    app.frontend("/", directory=str(tmp_path))
    add_chio(app)
    with TestClient(chio.connect(app)) as client:
        yield client


def routes(chio: ChioFixture) -> list[str]:
    return [receipt.route_pattern for receipt in chio.receipts]


@pytest.mark.parametrize("path", ["/static/a.js", "/a.js", "/"])
def test_the_receipt_of_a_file_names_its_path(client: TestClient, chio: ChioFixture, path: str) -> None:
    assert client.get(path).status_code == 200
    assert routes(chio) == [path]
    assert client.post(path).status_code == 403


def test_the_receipt_of_a_mounted_application_names_its_template(client: TestClient, chio: ChioFixture) -> None:
    assert client.get("/api/items/7").status_code == 200
    assert routes(chio) == ["/api/items/{item}"]


def test_a_requirement_of_a_router_counts_for_its_frontend(client: TestClient, chio: ChioFixture) -> None:
    assert client.get("/reports/a.js").status_code == 401
    assert client.get("/reports/a.js", headers=chio.headers(chio.capability("reports", "read"))).text == "1"
    assert routes(chio) == ["/reports/a.js"] * 4  # before the router is searched, and in the dependency


def test_a_budget_refuses_paths_without_a_template(client: TestClient) -> None:
    assert client.get("/counted/a.js").status_code == 502
