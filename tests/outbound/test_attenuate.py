"""A narrower capability for an outgoing call."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from chio_core.capabilities import (
    CapabilityRejected,
    parse_capability,
    scope_allows,
    verify_capability,
    verify_token_chain,
)
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


@pytest.mark.parametrize("wrong", ["payments/charge", 5, [grant("payments", "charge")], {"grants": 5}])
def test_a_scope_of_another_form_is_refused_in_words(wrong: Any) -> None:
    with pytest.raises(CapabilityRejected, match="the scope cannot be read"):
        attenuate(WIDE, SERVICE, scope=wrong)


def test_it_lives_no_longer_than_the_old_one() -> None:
    now = int(time.time())
    old = token(grant("a", "b"), now=now - 50, ttl_seconds=60)
    new = parse_capability(attenuate(old, SERVICE, scope=scope(grant("a", "b")), ttl_seconds=3600, now=now))
    assert new.expires_at == now + 10
    with pytest.raises(CapabilityRejected, match="expired"):
        attenuate(old, SERVICE, scope=scope(grant("a", "b")), now=now + 10)


def test_a_chain_keeps_every_ancestor_and_verifies_whoever_narrows() -> None:
    other = SigningKey(bytes([8]) * 32)
    text, names = WIDE, []
    for key in (SERVICE, SERVICE, other, SERVICE):
        names.append(parse_capability(text).id)
        text = attenuate(text, key, scope=scope(grant("payments", "charge")))
        found = verify_capability(text, trusted_issuers=[key.public_hex])
        verify_token_chain(found)
        assert [link.capability_id for link in found.delegation_chain] == names
        assert found.delegation_chain[-1].delegator == key.public_hex


def test_a_capability_that_was_delegated_to_this_service_keeps_the_links_as_they_were_signed() -> None:
    here = SigningKey(bytes([8]) * 32)
    first = attenuate(WIDE, SERVICE, scope=scope(grant("payments", "charge")), subject=here.public_hex)
    second = attenuate(first, here, scope=scope(grant("payments", "charge")))
    links = [parse_capability(text).delegation_chain for text in (first, second)]
    assert links[1][:1] == links[0]


def test_a_chain_has_at_most_eight_links() -> None:
    text = WIDE
    for _ in range(8):
        text = attenuate(text, SERVICE, scope=scope(grant("payments", "charge")))
    verify_capability(text, trusted_issuers=[SERVICE.public_hex])
    with pytest.raises(CapabilityRejected, match="delegation depth 9 exceeds maximum 8"):
        attenuate(text, SERVICE, scope=scope(grant("payments", "charge")))


def test_a_restriction_that_is_not_known_cannot_be_lost_by_narrowing() -> None:
    document = parse_capability(WIDE).to_wire()
    document["scope"]["grants"][0]["only_on_mondays"] = True
    with pytest.raises(CapabilityRejected, match="not a subset"):
        attenuate(json.dumps(document), SERVICE, scope=scope(grant("payments", "charge")))
    assert attenuate(json.dumps(document), SERVICE, scope=scope(grant("payments", "refund")))


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
