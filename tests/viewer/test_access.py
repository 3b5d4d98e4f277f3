"""Who gets the viewer's page and data: nobody from elsewhere, and no other site in a browser on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp

from chio_sidecar.viewer import VIEWER_PATH, create_viewer_app
from chio_sidecar.viewer.access import is_this_machine
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
@pytest.mark.parametrize("client", [REMOTE, None])
def test_nobody_else_does(store: Path, path: str, client: Any) -> None:
    assert get(viewer(store), path, client=client).status_code == 403


@pytest.mark.parametrize("path", DATA + FILES)
@pytest.mark.parametrize("name", ["X_Forwarded_For", "Forwarded", "X_Real_IP"])
def test_a_forwarded_request_is_not_from_this_machine(store: Path, path: str, name: str) -> None:
    assert get(viewer(store), path, **{name: "127.0.0.1"}).status_code == 403


@pytest.mark.parametrize("path", DATA + FILES)
@pytest.mark.parametrize("host", ["attacker.example:9090", "127.0.0.1.attacker.example", "localhost.attacker.example"])
def test_a_name_that_somebody_let_point_to_this_machine_is_refused(store: Path, path: str, host: str) -> None:
    answer = get(viewer(store), path, Host=host, Sec_Fetch_Site="same-origin")
    assert (answer.status_code, answer.json()["error"]) == (403, "chio_viewer_forbidden")


@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
@pytest.mark.parametrize("token", [None, "s3cret"])
def test_another_site_gets_no_data(store: Path, path: str, site: str, token: str | None) -> None:
    answer = get(viewer(store, token), path, Sec_Fetch_Site=site, Authorization="Bearer s3cret")
    assert answer.status_code == 403


@pytest.mark.parametrize("path", DATA + FILES)
@pytest.mark.parametrize(
    "origin", ["http://attacker.example", "null", "http://127.0.0.1:8000", "http://localhost:9090"]
)
def test_a_page_of_another_origin_is_refused(store: Path, path: str, origin: str) -> None:
    assert get(viewer(store), path, Origin=origin).status_code == 403


@pytest.mark.parametrize("path", DATA + FILES)
def test_the_own_page_may_say_its_origin(store: Path, path: str) -> None:
    assert get(viewer(store), path, Origin="http://127.0.0.1:9090").status_code == 200


def test_saying_the_origin_of_this_server_opens_nothing_else(tmp_path: Path) -> None:
    with sidecars() as create:
        app = create(store_path=tmp_path / "s.sqlite3", signing_key=KEY)
        assert get(app, "/approvals/pending").status_code == 200
        assert get(app, "/approvals/pending", Origin="http://127.0.0.1:9090").status_code == 403


@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("value", [None, "Bearer other", "s3cret", "Basic s3cret"])
def test_with_a_token_nobody_gets_data_without_it(store: Path, path: str, value: str | None) -> None:
    headers = {} if value is None else {"Authorization": value}
    answer = get(viewer(store, "s3cret"), path, **headers)
    assert (answer.status_code, answer.json()["sign_in"]) == (403, True)


@pytest.mark.parametrize("path", DATA)
@pytest.mark.parametrize("client", [LOOPBACK, REMOTE])
def test_with_the_token_everybody_gets_data_under_any_name(store: Path, path: str, client: Any) -> None:
    headers = {"Authorization": "Bearer s3cret", "Host": "sidecar.internal"}
    assert get(viewer(store, "s3cret"), path, client=client, **headers).status_code == 200


@pytest.mark.parametrize("path", FILES)
def test_with_a_token_the_page_is_there_for_typing_it_in(store: Path, path: str) -> None:
    assert get(viewer(store, "s3cret"), path, client=REMOTE, Host="sidecar.internal").status_code == 200


@pytest.mark.parametrize("path", [*DATA, *FILES, f"{VIEWER_PATH}api/bundle?id=unknown"])
def test_every_answer_keeps_other_pages_out(store: Path, path: str) -> None:
    for answer in (get(viewer(store), path), get(viewer(store), path, client=REMOTE)):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", DATA)
def test_what_tells_of_receipts_is_never_kept(store: Path, path: str) -> None:
    assert get(viewer(store), path).headers["cache-control"] == "no-store"
    assert get(viewer(store), path, client=REMOTE).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", DATA + FILES)
def test_nothing_can_be_changed_here(store: Path, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        assert fetch(viewer(store), method, path, headers=LOCAL).status_code == 405


def test_two_host_headers_name_nothing(store: Path) -> None:
    headers = [("Host", "127.0.0.1"), ("Host", "127.0.0.1")]
    assert fetch(viewer(store), "GET", DATA[0], headers=headers).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.8.8.8:65535", "[::1]", "[::1]:9090"])
def test_these_hosts_are_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com",
        "localhost.",
        "127.0.0.1.nip.io",
        "127.1",
        "2130706433",
        "0.0.0.0",
        "[::1",
        "[::1]x",
        "10.0.0.1",
    ],
)
def test_these_are_not(host: str) -> None:
    assert not is_this_machine(host)
