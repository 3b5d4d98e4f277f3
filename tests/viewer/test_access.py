"""Who gets the viewer's page and data: no remote caller, and no other site in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp

from chio_sidecar.control.access import names_this_machine
from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app
from tests.sidecar.control_tools import LOOPBACK, REMOTE, fetch, sidecars
from tests.viewer.records import KEY, fill, receipt

LOCAL = {"Host": "127.0.0.1:9090"}
DATA = [f"{VIEWER_PATH}api/{name}" for name in ("status", "receipts", "count", "receipt?id=receipt-00001", "bundle")]
FILES = [VIEWER_PATH, f"{VIEWER_PATH}main.js", f"{VIEWER_PATH}viewer.css"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("viewer") / "s.sqlite3", [receipt(1)])


def viewer(store: Path, token: str | None = None) -> ASGIApp:
    return create_viewer_app(store, keys=frozenset({KEY.public_hex}), token=SecretStr(token) if token else None)


def get(app: ASGIApp, path: str, *, client: Any = LOOPBACK, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(app, "GET", path, client=client, headers=LOCAL | named)


@pytest.mark.parametrize("path", DATA + FILES)
def test_a_browser_on_this_machine_gets_it(store: Path, path: str) -> None:
    assert get(viewer(store), path, Sec_Fetch_Site="same-origin").status_code == 200


@pytest.mark.parametrize("path", DATA + FILES)
def test_no_other_caller_does_and_no_forwarded_request(store: Path, path: str) -> None:
    for client in (REMOTE, None):
        assert get(viewer(store), path, client=client).status_code == 403
    for name in ("X_Forwarded_For", "Forwarded", "X_Real_IP"):
        assert get(viewer(store), path, **{name: "127.0.0.1"}).status_code == 403


@pytest.mark.parametrize("path", DATA + FILES)
def test_a_foreign_name_that_points_to_this_machine_is_refused(store: Path, path: str) -> None:
    for host in ("attacker.example:9090", "127.0.0.1.attacker.example", "localhost.attacker.example"):
        response = get(viewer(store), path, Host=host, Sec_Fetch_Site="same-origin")
        assert (response.status_code, response.json()["error"]) == (403, "chio_viewer_forbidden")


@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
def test_another_site_gets_no_data(store: Path, path: str, site: str) -> None:
    for token in (None, "s3cret"):
        app = viewer(store, token)
        assert get(app, path, Sec_Fetch_Site=site, Authorization="Bearer s3cret").status_code == 403


@pytest.mark.parametrize("path", DATA + FILES)
def test_only_the_own_page_may_state_its_origin(store: Path, path: str) -> None:
    for origin in ("http://attacker.example", "null", "http://127.0.0.1:8000", "http://localhost:9090"):
        assert get(viewer(store), path, Origin=origin).status_code == 403
    assert get(viewer(store), path, Origin="http://127.0.0.1:9090").status_code == 200


def test_stating_the_origin_of_this_server_opens_nothing_else(tmp_path: Path) -> None:
    with sidecars() as create:
        app = create(store_path=tmp_path / "s.sqlite3", signing_key=KEY)
        assert get(app, "/approvals/pending").status_code == 200
        assert get(app, "/approvals/pending", Origin="http://127.0.0.1:9090").status_code == 403


@pytest.mark.parametrize("path", DATA)
def test_a_token_is_required_for_data_and_sufficient_under_any_name(store: Path, path: str) -> None:
    app = viewer(store, "s3cret")
    for value in (None, "Bearer other", "s3cret", "Basic s3cret"):
        response = get(app, path, **({} if value is None else {"Authorization": value}))
        assert (response.status_code, response.json()["sign_in"]) == (403, True)
    for client in (LOOPBACK, REMOTE):
        headers = {"Authorization": "Bearer s3cret", "Host": "sidecar.internal"}
        assert get(app, path, client=client, **headers).status_code == 200


@pytest.mark.parametrize("path", FILES)
def test_with_a_token_every_caller_gets_the_page_to_type_it_in(store: Path, path: str) -> None:
    assert get(viewer(store, "s3cret"), path, client=REMOTE, Host="sidecar.internal").status_code == 200


@pytest.mark.parametrize("path", [*DATA, *FILES, f"{VIEWER_PATH}api/bundle?id=unknown"])
def test_every_response_keeps_other_pages_out(store: Path, path: str) -> None:
    for response in (get(viewer(store), path), get(viewer(store), path, client=REMOTE)):
        policy = set(response.headers["content-security-policy"].split("; "))
        assert policy >= {"default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"}
        assert "unsafe" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in response.headers
        if path not in FILES:
            assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", DATA + FILES)
def test_nothing_can_be_changed_here(store: Path, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert fetch(viewer(store), method, path, headers=LOCAL).status_code == 405


def test_two_host_headers_name_nothing(store: Path) -> None:
    headers = [("Host", "127.0.0.1"), ("Host", "127.0.0.1")]
    assert fetch(viewer(store), "GET", DATA[0], headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.8.8:65535", "[::1]", "[::1]:9090"])
def test_these_hosts_are_this_machine(host: str) -> None:
    assert names_this_machine(host)


@pytest.mark.parametrize("host", [
    "", "example.com", "localhost.", "127.0.0.1.nip.io", "127.1", "2130706433", "0.0.0.0", "[::1", "[::1]x", "10.0.0.1",
])  # fmt: skip
def test_these_are_not(host: str) -> None:
    assert not names_this_machine(host)
