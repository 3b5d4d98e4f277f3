"""Who may use the control plane (wire protocol, section 7.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.sidecar.control_tools import LOOPBACK, REMOTE, fetch

PATHS = (
    ("POST", "/v1/capabilities/mint"),
    ("POST", "/v1/capabilities/release"),
    ("POST", "/v1/capabilities"),
    ("POST", "/v1/capabilities/validate"),
    ("POST", "/v1/capabilities/attenuate"),
    ("POST", "/v1/receipts"),
    ("POST", "/v1/receipts/verify"),
    ("POST", "/v1/evaluate/advisory"),
    ("GET", "/approvals/pending"),
    ("GET", "/approvals/a-1"),
    ("POST", "/approvals/a-1/respond"),
    ("POST", "/approvals/a-1/operator-respond"),
    ("POST", "/approvals/submit"),
    ("POST", "/approvals/batch/respond"),
    ("GET", "/metrics"),
)
FORBIDDEN = (403, "chio_control_forbidden", "sidecar control endpoints require a loopback caller")
FORBIDDEN_WITH_TOKEN = (*FORBIDDEN[:2], f"{FORBIDDEN[2]} or valid bearer token")


Sidecar = Callable[..., Any]


def refusal(response: httpx.Response) -> tuple[int, str, str]:
    """Status, code and message; the document has no other member."""
    document = response.json()
    assert document.keys() == {"error", "message"}
    return response.status_code, document["error"], document["message"]


@pytest.fixture
def sidecar(create: Sidecar) -> Sidecar:
    return lambda token=None: create(control_token=None if token is None else SecretStr(token))


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_a_token_a_remote_peer_is_refused_everywhere(sidecar: Sidecar, method: str, path: str) -> None:
    assert refusal(fetch(sidecar(), method, path, client=REMOTE, content=b"")) == FORBIDDEN


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_with_a_token_loopback_needs_it_too_everywhere(sidecar: Sidecar, method: str, path: str) -> None:
    app = sidecar("s3cret")
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert refusal(fetch(app, method, path, headers=headers)) == FORBIDDEN_WITH_TOKEN
    admitted = fetch(app, method, path, headers={"Authorization": "Bearer s3cret"})
    assert admitted.status_code < 500
    assert "chio_control_forbidden" not in admitted.text


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_may_call(sidecar: Sidecar, host: str) -> None:
    assert fetch(sidecar(), "GET", "/approvals/pending", client=(host, 1)).status_code == 200


@pytest.mark.parametrize(
    "client", [("10.0.0.9", 1), ("::ffff:10.0.0.9", 1), ("::", 1), ("0.0.0.0", 1), ("localhost", 1), ("", 0), None]
)
def test_no_other_address_may_call_and_no_peer_without_one(sidecar: Sidecar, client: tuple[str, int] | None) -> None:
    assert fetch(sidecar(), "GET", "/approvals/pending", client=client).status_code == 403


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Origin"])
def test_a_request_that_came_from_elsewhere_is_not_local(sidecar: Sidecar, name: str) -> None:
    response = fetch(sidecar(), "GET", "/approvals/pending", headers={name: "127.0.0.1"})
    assert response.status_code == 403


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("host", ["attacker.example:9090", "127.0.0.1.attacker.example", "sidecar", ""])
def test_a_foreign_name_that_points_to_this_machine_opens_nothing(
    sidecar: Sidecar, method: str, path: str, host: str
) -> None:
    # DNS rebinding: a page of attacker.example whose name now leads here sends neither Origin nor a foreign site.
    headers = {"Host": host, "Sec-Fetch-Site": "same-origin"}
    status, code, message = refusal(fetch(sidecar(), method, path, headers=headers))
    assert (status, code, "host names localhost" in message) == (403, "chio_control_forbidden", True)


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
def test_another_site_cannot_send_a_request_with_or_without_a_token(
    sidecar: Sidecar, method: str, path: str, site: str
) -> None:
    for token in (None, "s3cret"):
        headers = {"Sec-Fetch-Site": site, "Authorization": "Bearer s3cret"}
        assert fetch(sidecar(token), method, path, headers=headers).status_code == 403


def test_the_same_names_count_as_this_machine_for_every_path(sidecar: Sidecar) -> None:
    for host in ("localhost", "LOCALHOST:9090", "127.8.8.8:1", "[::1]:9090"):
        assert fetch(sidecar(), "GET", "/metrics", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("client", [LOOPBACK, REMOTE, None])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_admits_every_peer_with_the_scheme_in_any_case(
    sidecar: Sidecar, client: tuple[str, int] | None, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} s3cret"}
    response = fetch(sidecar("s3cret"), "GET", "/approvals/pending", client=client, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("value", ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer", "Bearer é"])
def test_another_token_does_not(sidecar: Sidecar, value: str) -> None:
    headers = {"Authorization": value.encode("latin-1")}
    response = fetch(sidecar("s3cret"), "GET", "/approvals/pending", headers=headers)
    assert refusal(response) == FORBIDDEN_WITH_TOKEN


def test_two_authorization_headers_are_refused(sidecar: Sidecar) -> None:
    headers = [("Authorization", "Bearer s3cret"), ("Authorization", "Bearer s3cret")]
    assert fetch(sidecar("s3cret"), "GET", "/approvals/pending", headers=headers).status_code == 403


def test_a_refused_caller_is_refused_before_the_body_is_read(sidecar: Sidecar) -> None:
    read = []

    async def body() -> Any:
        read.append(1)
        yield b"{}"

    response = fetch(sidecar(), "POST", "/v1/capabilities/mint", client=REMOTE, content=body())
    assert response.status_code == 403
    assert read == []


def test_the_decision_endpoints_stay_open_to_everyone(sidecar: Sidecar) -> None:
    assert fetch(sidecar("s3cret"), "GET", "/chio/health", client=REMOTE).status_code == 200


@pytest.mark.parametrize("what", ["mint", "release"])
def test_a_body_over_the_limit_is_refused_with_400(sidecar: Sidecar, what: str) -> None:
    limit = 1024 * 1024

    async def chunks() -> Any:
        for _ in range(17):
            yield b" " * (limit // 16)

    for content in (b" " * (limit + 1), chunks()):
        response = fetch(sidecar(), "POST", f"/v1/capabilities/{what}", content=content)
        assert refusal(response) == (400, "chio_bad_request", f"failed to read capability {what} body")


def test_a_length_of_thousands_of_digits_is_too_large_and_no_failure(sidecar: Sidecar) -> None:
    response = fetch(sidecar(), "POST", "/v1/capabilities/mint", content=b"{}", headers={"content-length": "9" * 5000})
    assert (response.status_code, response.json()["error"]) == (400, "chio_bad_request")


def test_the_control_token_is_never_shown(sidecar: Sidecar) -> None:
    app = sidecar("canary-token")
    assert "canary-token" not in repr(app.state.sidecar.config)
    for method, path in PATHS:
        assert "canary-token" not in fetch(app, method, path, headers={"Authorization": "Bearer x"}).text
