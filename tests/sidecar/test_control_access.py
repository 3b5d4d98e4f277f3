"""Who may use the control plane (wire protocol, section 7.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.sidecar.control_tools import LOOPBACK, REMOTE, ask, sidecars

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
    ("POST", "/approvals/batch/respond"),
)
OPEN_FORBIDDEN = {
    "error": "chio_control_forbidden",
    "message": "sidecar control endpoints require a loopback caller",
}
TOKEN_FORBIDDEN = {
    "error": "chio_control_forbidden",
    "message": "sidecar control endpoints require a loopback caller or valid bearer token",
}


Sidecar = Callable[..., Any]


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[Sidecar]:
    with sidecars() as create:

        def with_token(token: str | None = None) -> Any:
            secret = None if token is None else SecretStr(token)
            return create(store_path=tmp_path / "receipts.sqlite3", control_token=secret)

        yield with_token


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_a_token_a_remote_peer_is_refused_everywhere(sidecar: Sidecar, method: str, path: str) -> None:
    answer = ask(sidecar(), method, path, client=REMOTE, content=b"")
    assert (answer.status_code, answer.json()) == (403, OPEN_FORBIDDEN)


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_with_a_token_loopback_needs_it_too_everywhere(sidecar: Sidecar, method: str, path: str) -> None:
    answer = ask(sidecar("s3cret"), method, path)
    assert (answer.status_code, answer.json()) == (403, TOKEN_FORBIDDEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_every_loopback_address_may_call(sidecar: Sidecar, host: str) -> None:
    assert ask(sidecar(), "GET", "/approvals/pending", client=(host, 1)).status_code == 200


@pytest.mark.parametrize(
    "client",
    [("10.0.0.9", 1), ("::ffff:10.0.0.9", 1), ("::", 1), ("0.0.0.0", 1), ("localhost", 1), ("", 0), None],
)
def test_no_other_address_may_call_nor_a_peer_without_one(sidecar: Sidecar, client: tuple[str, int] | None) -> None:
    assert ask(sidecar(), "GET", "/approvals/pending", client=client).status_code == 403


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Origin"])
def test_a_request_that_came_from_elsewhere_is_not_local(sidecar: Sidecar, name: str) -> None:
    answer = ask(sidecar(), "GET", "/approvals/pending", headers={name: "127.0.0.1"})
    assert answer.status_code == 403


@pytest.mark.parametrize("client", [LOOPBACK, REMOTE, None])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens_it_for_every_peer_with_the_scheme_in_any_case(
    sidecar: Sidecar, client: tuple[str, int] | None, scheme: str
) -> None:
    headers = {"Authorization": f"{scheme} s3cret"}
    answer = ask(sidecar("s3cret"), "GET", "/approvals/pending", client=client, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("value", ["Bearer s3cre", "Bearer s3crets", "Basic s3cret", "s3cret", "Bearer", "Bearer é"])
def test_another_token_does_not(sidecar: Sidecar, value: str) -> None:
    headers = {"Authorization": value.encode("latin-1")}
    answer = ask(sidecar("s3cret"), "GET", "/approvals/pending", headers=headers)
    assert (answer.status_code, answer.json()) == (403, TOKEN_FORBIDDEN)


def test_two_authorization_headers_are_refused(sidecar: Sidecar) -> None:
    headers = [("Authorization", "Bearer s3cret"), ("Authorization", "Bearer s3cret")]
    assert ask(sidecar("s3cret"), "GET", "/approvals/pending", headers=headers).status_code == 403


def test_a_refused_caller_is_refused_before_the_body_is_read(sidecar: Sidecar) -> None:
    read = []

    async def body() -> Any:
        read.append(1)
        yield b"{}"

    answer = ask(sidecar(), "POST", "/v1/capabilities/mint", client=REMOTE, content=body())
    assert answer.status_code == 403
    assert read == []


def test_the_decision_endpoints_stay_open_to_everyone(sidecar: Sidecar) -> None:
    assert ask(sidecar("s3cret"), "GET", "/chio/health", client=REMOTE).status_code == 200


@pytest.mark.parametrize(
    ("path", "what", "limit"),
    [
        ("/v1/capabilities/mint", "capability mint", 1024 * 1024),
        ("/v1/capabilities/release", "capability release", 1024 * 1024),
    ],
)
def test_a_body_over_the_limit_is_answered_400(sidecar: Sidecar, path: str, what: str, limit: int) -> None:
    async def chunks() -> Any:
        for _ in range(17):
            yield b" " * (limit // 16)

    for content in (b" " * (limit + 1), chunks()):
        answer = ask(sidecar(), "POST", path, content=content)
        expected = {"error": "chio_bad_request", "message": f"failed to read {what} body"}
        assert (answer.status_code, answer.json()) == (400, expected)


def test_a_length_of_thousands_of_digits_is_too_large_and_no_failure(sidecar: Sidecar) -> None:
    answer = ask(sidecar(), "POST", "/v1/capabilities/mint", content=b"{}", headers={"content-length": "9" * 5000})
    assert (answer.status_code, answer.json()["error"]) == (400, "chio_bad_request")


def test_the_control_token_is_never_shown(sidecar: Sidecar) -> None:
    app = sidecar("canary-token")
    assert "canary-token" not in repr(app.state.sidecar.config)
    for method, path in PATHS:
        assert "canary-token" not in ask(app, method, path, headers={"Authorization": "Bearer x"}).text
