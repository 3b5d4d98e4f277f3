"""Revoked capabilities: the protocol's response (section 1.7), ancestors, and the trust service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.models.request import content_hash
from chio_core.receipts import verify_receipt
from chio_sidecar.app import SidecarApp
from chio_sidecar.policy.rules import rule_of
from tests.sidecar.sidecar_tools import KERNEL, NOW, capability, decision, evaluate, sidecar

POST = {"method": "POST"}
UNAVAILABLE = "revocation authority is unavailable; no operation was dispatched"
ASK_AUTHORITY = {"control_url": "http://trust.test/", "control_service_token": SecretStr("service-secret")}


async def test_the_response_to_a_revoked_token_is_that_of_the_protocol(app: SidecarApp) -> None:
    store = app.state.sidecar.store
    assert await store.revoke("cap-1")
    answer = await decision(app, capability(), **POST, session_id="s-1", query={"a": "b"})
    verdict = {
        "verdict": "deny",
        "reason": "capability token has been revoked",
        "guard": "CapabilityRevocation",
        "http_status": 403,
    }
    receipt = answer["receipt"]
    assert answer["verdict"] == verdict
    assert answer["evidence"] == []
    assert "evidence" not in receipt
    assert receipt["verdict"] == verdict
    assert receipt["route_pattern"] == "/client/idea"
    assert receipt["timestamp"] == NOW - 5
    assert receipt["content_hash"] == content_hash("POST", "/client/idea", "/pets/7", {"a": "b"}, None)
    assert receipt["policy_hash"] == "ecda1e4a9c5be2c572aa750eb9d174fd4e09f9f3364d4c70e550c3fa408cfa5a"
    assert receipt["capability_id"] == "cap-1"
    assert receipt["session_id"] == "s-1"
    assert receipt["metadata"] == {"chio_http_status_scope": "decision"}
    assert rule_of(receipt) == "revoked"
    assert receipt["response_status"] == 403
    verify_receipt(receipt, trusted_keys=[KERNEL.public_hex])
    assert (await store.get(receipt["id"])) is not None


async def test_a_client_time_beyond_doubles_is_signed_digit_by_digit(app: SidecarApp) -> None:
    await app.state.sidecar.store.revoke("cap-1")
    receipt = (await decision(app, capability(), timestamp=2**64 - 1))["receipt"]
    assert receipt["timestamp"] == 2**64 - 1
    verify_receipt(receipt, trusted_keys=[KERNEL.public_hex])


async def test_an_empty_route_pattern_is_hashed_empty_and_written_as_the_path(app: SidecarApp) -> None:
    await app.state.sidecar.store.revoke("cap-1")
    receipt = (await decision(app, capability(), route_pattern=""))["receipt"]
    assert receipt["route_pattern"] == "/pets/7"
    assert receipt["content_hash"] == content_hash("GET", "", "/pets/7", {}, None)


@pytest.mark.parametrize(
    ("token", "changes"),
    [
        (lambda: None, {"capability_id": "cap-1"}),
        (lambda: "not a token", {"capability_id": "cap-1"}),
        (lambda: capability(), {"capability_id": "cap-2"}),
        (lambda: capability(ttl=1), {}),
        (lambda: capability(grants=[]), {"tool_server": "x"}),
    ],
    ids=["named only", "named beside an unreadable token", "before R7", "before R5", "before R1"],
)
async def test_revocation_comes_before_every_other_reason(
    token: Callable[[], Any], changes: dict[str, Any], app: SidecarApp
) -> None:
    await app.state.sidecar.store.revoke("cap-1")
    answer = await decision(app, token(), **changes)
    assert answer["verdict"]["guard"] == "CapabilityRevocation"


async def test_a_revoked_token_is_refused_at_once_and_after_a_restart(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        assert (await decision(app, capability(), **POST))["verdict"] == {"verdict": "allow"}
        await app.state.sidecar.store.revoke("cap-1")
        answer = await decision(app, capability(), **POST, request_id="req-2")
        assert answer["verdict"]["verdict"] == "deny"
    async with sidecar(tmp_path) as app:
        answer = await decision(app, capability(), **POST, request_id="req-3")
        assert answer["verdict"]["verdict"] == "deny"


async def test_a_token_whose_ancestor_was_revoked_is_refused(app: SidecarApp) -> None:
    await app.state.sidecar.store.revoke("cap-root")
    answer = await decision(app, capability(parents=["cap-root", "cap-middle"]), **POST)
    assert answer["verdict"]["reason"] == "presented capability cap-root has been revoked"
    assert answer["verdict"]["guard"] == "CapabilityGuard"
    assert answer["evidence"][0]["details"] == answer["verdict"]["reason"]
    assert "capability_id" not in answer["receipt"]


class Authority(httpx.AsyncBaseTransport):
    """A trust service that knows some revoked capabilities, or misbehaves."""

    def __init__(self, *revoked: str, answer: Callable[[str], httpx.Response] | None = None) -> None:
        self.revoked = set(revoked)
        self.answer = answer
        self.asked: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        name = request.url.params["capabilityId"]
        if self.answer is not None:
            return self.answer(name)
        document = {"configured": True, "capabilityId": name, "revoked": name in self.revoked}
        return httpx.Response(200, json=document | {"count": 0, "revocations": []})


async def test_the_trust_service_is_queried_about_a_token_and_its_ancestors(tmp_path: Path) -> None:
    authority = Authority()
    async with sidecar(tmp_path, **ASK_AUTHORITY, control_transport=authority) as app:
        token = capability(parents=["cap-root"])
        assert (await decision(app, token, **POST))["verdict"] == {"verdict": "allow"}
        authority.revoked.add("cap-root")
        answer = await decision(app, token, **POST, request_id="req-2")
        assert answer["verdict"]["reason"] == "presented capability cap-root has been revoked"
        authority.revoked.add("cap-1")
        answer = await decision(app, token, **POST, request_id="req-3")
        assert answer["verdict"]["guard"] == "CapabilityRevocation"
        assert answer["receipt"]["capability_id"] == "cap-1"
    assert {request.url.params["capabilityId"] for request in authority.asked} == {"cap-1", "cap-root"}
    assert {request.url.path for request in authority.asked} == {"/v1/revocations"}
    assert {request.headers["authorization"] for request in authority.asked} == {"Bearer service-secret"}


async def test_the_trust_service_is_not_queried_without_a_valid_token(tmp_path: Path) -> None:
    authority = Authority()
    async with sidecar(tmp_path, **ASK_AUTHORITY, control_transport=authority) as app:
        await decision(app)
        await decision(app, "no token", request_id="req-2")
        await decision(app, capability(ttl=1), request_id="req-3")
    assert authority.asked == []


def _refuse_connection(name: str) -> httpx.Response:
    raise httpx.ConnectError("refused")


MISBEHAVIOURS: dict[str, Callable[[str], httpx.Response]] = {
    "no connection": _refuse_connection,
    "unauthorised": lambda name: httpx.Response(401, json={"error": "missing or invalid control bearer token"}),
    "no database": lambda name: httpx.Response(409, json={"error": "trust control service requires …"}),
    "not JSON": lambda name: httpx.Response(200, text="ok"),
    "no object": lambda name: httpx.Response(200, json=[]),
    "no member": lambda name: httpx.Response(200, json={"capabilityId": name}),
    "null": lambda name: httpx.Response(200, json={"capabilityId": name, "revoked": None}),
    "another capability": lambda name: httpx.Response(200, json={"capabilityId": "x", "revoked": False}),
    "redirect": lambda name: httpx.Response(302, headers={"location": "http://elsewhere.test"}),
}


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
async def test_an_authority_without_a_usable_response_means_deny(kind: str, tmp_path: Path) -> None:
    transport = Authority(answer=MISBEHAVIOURS[kind])
    async with sidecar(tmp_path, **ASK_AUTHORITY, control_transport=transport) as app:
        for number, method in enumerate(["GET", "POST"]):
            answer = await decision(app, capability(), method=method, request_id=f"req-{number}")
            assert answer["verdict"]["reason"] == UNAVAILABLE
            assert "capability_id" not in answer["receipt"]
        assert (await decision(app, request_id="req-9"))["verdict"] == {"verdict": "allow"}


async def test_an_authority_that_never_answers_means_deny_within_the_timeout(tmp_path: Path) -> None:
    class Silent(httpx.AsyncBaseTransport):
        def __init__(self) -> None:
            self.release = asyncio.Event()

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            await self.release.wait()
            return httpx.Response(500)

    silent = Silent()
    options = {**ASK_AUTHORITY, "control_transport": silent, "control_timeout": 0.05}
    async with sidecar(tmp_path, **options) as app:
        assert (await decision(app, capability()))["verdict"]["reason"] == UNAVAILABLE
        silent.release.set()


async def test_a_local_revocation_counts_also_while_the_authority_is_away(tmp_path: Path) -> None:
    transport = Authority(answer=_refuse_connection)
    async with sidecar(tmp_path, **ASK_AUTHORITY, control_transport=transport) as app:
        await app.state.sidecar.store.revoke("cap-1")
        answer = await decision(app, capability())
        assert answer["verdict"]["reason"] == "capability token has been revoked"


async def test_a_receipt_holds_nothing_of_the_token_but_its_id(tmp_path: Path) -> None:
    token = capability()
    async with sidecar(tmp_path) as app:
        body = (await evaluate(app, token, **POST)).body
        assert token.signature.encode() not in body
        await app.state.sidecar.store.close()
    stored = (tmp_path / "receipts.sqlite3").read_bytes()
    assert token.signature.encode() not in stored
