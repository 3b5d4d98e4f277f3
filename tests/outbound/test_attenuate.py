"""A narrower capability for an outgoing call."""

from __future__ import annotations

import time
from typing import Any

import pytest

from chio_core.capabilities import CapabilityRejected, parse_capability, scope_allows, verify_capability
from chio_core.client.client import ChioClient
from chio_core.outbound import GovernOutbound, OutboundDenied, attenuate, receipt_of
from chio_core.settings import ChioSettings
from chio_core.signing import SigningKey
from tests.outbound.tools import KEY, Upstream, grant, token

WIDE = token(grant("payments", "charge"), grant("payments", "refund"))
SERVICE = SigningKey(bytes([9]) * 32)


def scope(*grants: dict[str, Any]) -> dict[str, Any]:
    return {"grants": [{"operations": ["invoke"], **one} for one in grants]}


def test_the_new_token_allows_part_of_the_old_one_and_names_it() -> None:
    narrow = verify_capability(
        parse_capability(attenuate(WIDE, SERVICE, scope=scope(grant("payments", "charge")))),
        trusted_issuers=[SERVICE.public_hex],
    )
    assert scope_allows(narrow.scope, "payments", "charge", {})
    assert not scope_allows(narrow.scope, "payments", "refund", {})
    (link,) = narrow.delegation_chain
    assert link.capability_id == parse_capability(WIDE).id
    assert narrow.expires_at <= parse_capability(WIDE).expires_at


def test_it_lives_no_longer_than_the_old_one() -> None:
    now = int(time.time())
    old = token(grant("a", "b"), now=now - 50, ttl_seconds=60)
    new = parse_capability(attenuate(old, SERVICE, scope=scope(grant("a", "b")), ttl_seconds=3600, now=now))
    assert new.expires_at == now + 10
    with pytest.raises(CapabilityRejected, match="expired"):
        attenuate(old, SERVICE, scope=scope(grant("a", "b")), now=now + 10)


def test_more_than_the_old_one_allows_is_refused() -> None:
    with pytest.raises(CapabilityRejected, match="not a subset"):
        attenuate(WIDE, SERVICE, scope=scope(grant("payments", "*")))
    with pytest.raises(CapabilityRejected):
        attenuate("no token", SERVICE, scope=scope())


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(CapabilityRejected):
        attenuate(WIDE, SERVICE, scope={"grants": "all"})


async def test_a_sidecar_that_trusts_the_service_takes_it(embedded: ChioSettings) -> None:
    upstream = Upstream()

    narrow = attenuate(WIDE, KEY, scope=scope(grant("payments", "charge")))
    async with ChioClient(embedded) as client:
        member = GovernOutbound(client, tool=("payments", "charge"), capability=narrow)
        receipt = receipt_of(await upstream.fetch(member, method="POST", content=b"1"))
        with pytest.raises(OutboundDenied):
            await upstream.fetch(GovernOutbound(client, tool=("payments", "refund"), capability=narrow))
    assert receipt is not None
    assert receipt.capability_id == parse_capability(narrow).id != parse_capability(WIDE).id
    assert upstream.hits == 1
