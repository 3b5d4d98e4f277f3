"""A sidecar that follows an authority trusts its new keys, and strangers cannot keep the authority busy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from chio_core.capabilities import sign_link
from chio_sidecar.store.issuers import issuer_name
from tests.sidecar.sidecar_tools import AUTHORITY, HOLDER, NOW, STRANGER, Clock, capability, decision, send, sidecar

UNTRUSTED = "capability issuer is not trusted"


class Authority:
    """A trust service that names keys and has no revocations; it counts the queries for keys."""

    def __init__(self, *keys: Any, status: int = 200) -> None:
        self.keys: Any = list(keys)
        self.status = status
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/revocations":
            name = request.url.params["capabilityId"]
            return httpx.Response(200, json={"capabilityId": name, "revoked": False})
        self.asked += 1
        return httpx.Response(self.status, json={"trustedPublicKeys": self.keys})


def following(folder: Path, authority: Authority, **options: Any) -> Any:
    return sidecar(
        folder,
        control_url="http://127.0.0.1:8940",
        control_transport=httpx.MockTransport(authority),
        **{"follow_authority": True, **options},
    )


async def verdict(app: Any, token: Any, request_id: str) -> str | None:
    answer = await decision(app, token, request_id=request_id, method="POST")
    return answer["verdict"].get("reason")  # type: ignore[no-any-return]


async def validation(app: Any, token: Any) -> Any:
    headers = [("authorization", "Bearer c"), ("content-type", "application/json")]
    body = token.to_header().encode()
    return json.loads((await send(app, "POST", "/v1/capabilities/validate", body, headers=headers)).body)


async def test_a_key_that_the_authority_has_changed_to_is_trusted_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(AUTHORITY.public_hex, STRANGER.public_hex)
    async with following(tmp_path, authority) as app:
        assert await verdict(app, capability(), "a") is None
        assert authority.asked == 0
        assert await verdict(app, capability(STRANGER), "b") is None
        assert await verdict(app, capability(STRANGER), "c") is None
        assert authority.asked == 1
        assert await verdict(app, capability(), "d") is None


async def test_unknown_issuers_cause_one_query_in_ten_seconds(tmp_path: Path) -> None:
    clock, authority = Clock(), Authority(AUTHORITY.public_hex)
    async with following(tmp_path, authority, clock=clock) as app:
        for number in range(5):
            assert await verdict(app, capability(STRANGER), f"a{number}") == UNTRUSTED
        assert authority.asked == 1
        authority.keys.append(STRANGER.public_hex)
        clock.now = NOW + 9.9
        assert await verdict(app, capability(STRANGER), "b") == UNTRUSTED
        clock.now = NOW + 10
        assert await verdict(app, capability(STRANGER), "c") is None
        clock.now = NOW - 3600  # a clock that was set back asks again
        assert await verdict(app, capability(HOLDER, issued=NOW - 7200, ttl=86400), "d") == UNTRUSTED
        assert authority.asked == 3


@pytest.mark.parametrize("keys", [["nonsense"], "text", {"a": 1}, [5], None, []])
async def test_an_authority_that_names_nothing_usable_changes_nothing(tmp_path: Path, keys: Any) -> None:
    authority = Authority()
    authority.keys = keys
    async with following(tmp_path, authority) as app:
        assert await verdict(app, capability(STRANGER), "a") == UNTRUSTED
        assert await verdict(app, capability(), "b") is None
        assert authority.asked == 1


async def test_an_authority_that_does_not_answer_changes_nothing(tmp_path: Path) -> None:
    async with following(tmp_path, Authority(status=503)) as app:
        assert await verdict(app, capability(STRANGER), "a") == UNTRUSTED


async def test_pinned_issuers_are_not_added_to(tmp_path: Path) -> None:
    authority = Authority(STRANGER.public_hex)
    async with following(tmp_path, authority, follow_authority=False) as app:
        assert await verdict(app, capability(STRANGER), "a") == UNTRUSTED
        assert authority.asked == 0


async def test_what_a_withdrawn_issuer_has_signed_is_refused_though_its_key_is_pinned(tmp_path: Path) -> None:
    async with sidecar(tmp_path, trusted_issuers={AUTHORITY.public_hex, STRANGER.public_hex}) as app:
        assert await verdict(app, capability(), "a") is None
        assert await app.state.sidecar.store.revoke(issuer_name(AUTHORITY.public_hex))
        assert await verdict(app, capability(), "b") == UNTRUSTED
        assert await verdict(app, capability(STRANGER), "c") is None
        answer = await decision(app, capability(), request_id="d", method="POST", capability_id="cap-1")
        assert (answer["verdict"]["reason"], answer["verdict"]["guard"]) == (UNTRUSTED, "CapabilityGuard")


async def test_a_key_that_the_trust_service_has_withdrawn_is_refused_at_once(tmp_path: Path) -> None:
    withdrawn: set[str] = set()

    def respond(request: httpx.Request) -> httpx.Response:
        token, *more = request.url.params.multi_items()
        names = [{"capabilityId": name, "revoked": name in withdrawn} for key, name in more if key == "ancestorId"]
        return httpx.Response(200, json={"capabilityId": token[1], "revoked": False, "ancestors": names})

    transport = httpx.MockTransport(respond)
    async with sidecar(tmp_path, control_url="http://127.0.0.1:8940", control_transport=transport) as app:
        assert await verdict(app, capability(), "a") is None
        withdrawn.add(issuer_name(AUTHORITY.public_hex))
        assert await verdict(app, capability(), "b") == UNTRUSTED


def delegated() -> Any:
    """A token of the stranger, for whom the authority has signed a delegation."""
    link = sign_link(AUTHORITY, capability_id="cap-0", delegatee=STRANGER.public_hex, timestamp=NOW - 100)
    return capability(STRANGER, links=[link])


async def test_a_delegation_that_a_withdrawn_issuer_has_signed_is_refused_as_its_capabilities_are(
    tmp_path: Path,
) -> None:
    async with sidecar(tmp_path, trusted_issuers={STRANGER.public_hex}, control_token=SecretStr("c")) as app:
        assert await verdict(app, delegated(), "a") is None
        assert (await validation(app, delegated()))["valid"] is True
        assert await app.state.sidecar.store.revoke(issuer_name(AUTHORITY.public_hex))
        assert await verdict(app, delegated(), "b") == UNTRUSTED
        assert (await validation(app, delegated()))["reason"] == UNTRUSTED
        assert await verdict(app, capability(STRANGER), "c") is None


@pytest.mark.parametrize("parent", ["cap-0", "c" * 4000], ids=["in one query", "in a query of its own"])
async def test_a_delegation_of_a_key_that_the_trust_service_has_withdrawn_is_refused(
    tmp_path: Path, parent: str
) -> None:
    withdrawn: set[str] = set()

    def respond(request: httpx.Request) -> httpx.Response:
        token, *more = request.url.params.multi_items()
        names = [{"capabilityId": name, "revoked": name in withdrawn} for key, name in more if key == "ancestorId"]
        return httpx.Response(
            200, json={"capabilityId": token[1], "revoked": token[1] in withdrawn, "ancestors": names}
        )

    link = sign_link(AUTHORITY, capability_id=parent, delegatee=STRANGER.public_hex, timestamp=NOW - 100)
    token = capability(STRANGER, links=[link])
    options = {"control_url": "http://127.0.0.1:8940", "control_transport": httpx.MockTransport(respond)}
    async with sidecar(tmp_path, trusted_issuers={STRANGER.public_hex}, control_token=SecretStr("c"), **options) as app:
        assert await verdict(app, token, "a") is None
        withdrawn.add(issuer_name(AUTHORITY.public_hex))
        assert await verdict(app, token, "b") == UNTRUSTED
        assert (await validation(app, token))["reason"] == UNTRUSTED


async def test_a_capability_that_a_stranger_signed_in_a_known_name_is_refused(tmp_path: Path) -> None:
    token = capability(STRANGER).to_wire() | {"issuer": HOLDER.public_hex}
    async with following(tmp_path, Authority(HOLDER.public_hex)) as app:
        assert await verdict(app, token, "a") == "capability signature verification failed"
