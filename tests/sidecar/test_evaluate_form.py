"""The form of responses and receipts (wire protocol, sections 1.3 and 3.1 to 3.6)."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from chio_core.canonical import sha256_hex
from chio_core.errors import ReceiptRejected
from chio_core.models.request import content_hash
from chio_core.receipts import verify_receipt
from chio_sidecar.app import SidecarApp
from chio_sidecar.policy.routes import NO_SPEC_POLICY
from chio_sidecar.policy.rules import Rule, rule_of
from tests.sidecar.sidecar_tools import (
    KERNEL,
    NOW,
    SERVER,
    TESTS,
    TOOL,
    Clock,
    capability,
    decision,
    evaluate,
    grant,
    sidecar,
    vectors,
)

SPEC = """\
openapi: 3.0.3
info: {title: Pets, version: "1"}
paths:
  /pets/{petId}:
    get: {}
    post: {x-chio-side-effects: false}
"""
ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


async def test_members_are_in_the_written_order(app: SidecarApp) -> None:
    answer = (await evaluate(app, capability(), session_id="s-1", method="POST")).document
    assert list(answer) == ["verdict", "receipt", "evidence"]
    assert list(answer["receipt"]) == [
        "id", "request_id", "route_pattern", "method", "caller_identity_hash", "session_id", "verdict",
        "evidence", "response_status", "timestamp", "content_hash", "policy_hash", "capability_id", "metadata",
        "kernel_key", "signature",
    ]  # fmt: skip
    assert list((await decision(app, request_id="req-2", method="POST"))["verdict"]) == [
        "verdict",
        "reason",
        "guard",
        "http_status",
    ]


async def test_a_receipt_is_about_its_request(tmp_path: Path) -> None:
    digest = "ee03f2fedb7d74eb8d0a1b2f18b8f8a098b85af0d8777ceb9507129664bf1b9a"
    async with sidecar(tmp_path, spec_text=SPEC) as app:
        query = {"lang": "pt-BR", "dry": "1"}
        receipt = (await decision(app, method="POST", query=query, body_hash=digest))["receipt"]
        assert receipt["request_id"] == "req-1"
        assert receipt["method"] == "POST"
        assert receipt["route_pattern"] == "/pets/{petId}"
        assert receipt["timestamp"] == NOW
        assert receipt["kernel_key"] == KERNEL.public_hex
        assert receipt["content_hash"] == content_hash("POST", "/pets/{petId}", "/pets/7", query, digest)
        assert receipt["policy_hash"] == sha256_hex(SPEC.encode())
        anonymous = "5a45e80d1ab1a73e8c2644f3f6c6e53974d0a986c2fc86692372d3f130248c9c"
        assert receipt["caller_identity_hash"] == anonymous
        verify_receipt(receipt, trusted_keys=[KERNEL.public_hex])


async def test_without_a_specification_the_policy_hash_is_that_of_a_constant(app: SidecarApp) -> None:
    receipt = (await decision(app))["receipt"]
    assert receipt["route_pattern"] == "/pets/7"
    assert receipt["policy_hash"] == sha256_hex(NO_SPEC_POLICY.encode())


async def test_the_metadata_name_the_kernels_receipt_and_the_route(app: SidecarApp) -> None:
    metadata = (await decision(app))["receipt"]["metadata"]
    assert list(metadata) == ["chio_http_status_scope", "chio_kernel_receipt_id", "route_selection"]
    assert metadata["chio_http_status_scope"] == "decision"
    assert re.fullmatch(
        r"rcpt-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", metadata["chio_kernel_receipt_id"]
    )


async def test_the_rule_that_refused_is_signed_stored_and_read_back(app: SidecarApp) -> None:
    receipt = (await decision(app, method="POST"))["receipt"]
    assert receipt["metadata"]["chio_rule"] == "R8"
    stored = await app.state.sidecar.store.get(receipt["id"])
    assert rule_of(verify_receipt(json.loads(stored.receipt_json), trusted_keys=[KERNEL.public_hex])) == "R8"
    receipt["metadata"]["chio_rule"] = "R4"
    with pytest.raises(ReceiptRejected):
        verify_receipt(receipt)
    other = {"verdict": {"verdict": "deny", "guard": "CapabilityGuard"}, "metadata": {"route_selection": {}}}
    assert [rule_of(other), rule_of({"metadata": []}), rule_of({"metadata": {"chio_rule": "R9"}})] == [None, None, "R9"]


def test_the_page_lists_every_rule_with_its_guard() -> None:
    page = (TESTS.parent / "docs" / "sidecar.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \|", page, re.MULTILINE)
    listed = {rule: guard for rules, guard in rows for rule in re.findall(r"`([\w.-]+)`", rules)}
    assert listed == {rule.id: rule.guard for rule in Rule}


@pytest.mark.parametrize("case", vectors("composed", "route-selection", "v1.json")["cases"], ids=lambda c: c["id"])
async def test_the_route_selection_is_that_of_the_vectors(case: dict[str, Any], app: SidecarApp) -> None:
    receipt = (await decision(app, request_id=case["request_id"]))["receipt"]
    assert receipt["metadata"]["route_selection"] == case["route_selection"]


async def test_receipt_ids_are_ulids_that_grow(app: SidecarApp) -> None:
    ids = [(await decision(app, request_id=f"req-{n}"))["receipt"]["id"] for n in range(50)]
    assert all(ULID.fullmatch(name) for name in ids)
    assert ids == sorted(set(ids))


async def test_ids_grow_also_when_the_clock_steps_back(app: SidecarApp) -> None:
    sidecar_state = app.state.sidecar
    first = sidecar_state.ids.new()
    sidecar_state.config.clock.now -= 3600
    assert sidecar_state.ids.new() > first


@pytest.mark.parametrize("now", [0, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 4_102_444_800])
async def test_the_years_2038_and_2106_pass_unnoticed(now: int, tmp_path: Path) -> None:
    """B5: signed, stored, verified, and its id in the order of time."""
    async with sidecar(tmp_path, clock=Clock(now)) as app:
        earlier = (await evaluate(app)).document["receipt"]
        app.state.sidecar.config.clock.now += 1
        receipt = (await evaluate(app, request_id="req-2")).document["receipt"]
        assert (earlier["timestamp"], receipt["timestamp"]) == (now, now + 1)
        assert earlier["id"] < receipt["id"]
        assert verify_receipt(receipt, trusted_keys=[KERNEL.public_hex]).timestamp == now + 1


def _registry() -> Registry[Any]:
    folder = TESTS / "schemas" / "april"
    found = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in found.items())


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("token", [None, "good", "bad"])
async def test_every_response_fits_the_published_schema(method: str, token: str | None, tmp_path: Path) -> None:
    validator = Draft202012Validator(
        {"$ref": "evaluate-response.schema.json"}, registry=_registry(), format_checker=None
    )
    async with sidecar(tmp_path) as app:
        presented = {None: None, "good": capability(), "bad": "{}"}[token]
        validator.validate(await decision(app, presented, method=method, session_id="s"))
        await app.state.sidecar.store.revoke("cap-1")
        validator.validate(await decision(app, capability(), method=method, request_id="req-2"))


@pytest.mark.parametrize(
    "text", ["é ü 漢字 🙂", 'quote " backslash \\ slash /', "tab\tnewline\nbell\x07", "\u2028\x7f", "{petId}", "a\x00b"]
)
async def test_any_text_can_be_signed_stored_and_verified(text: str, app: SidecarApp) -> None:
    receipt = (await decision(app, request_id=text, path=f"/{text}", query={text: text}, session_id=text))["receipt"]
    assert receipt["session_id"] == text
    verify_receipt(receipt, trusted_keys=[KERNEL.public_hex])
    stored = await app.state.sidecar.store.get(receipt["id"])
    assert (stored.request_id, json.loads(stored.receipt_json)) == (text, receipt)


async def test_the_stored_text_is_the_one_in_the_response(app: SidecarApp) -> None:
    answer = await evaluate(app)
    stored = await app.state.sidecar.store.get(answer.document["receipt"]["id"])
    assert stored.receipt_json.encode() in answer.body
    assert answer.headers == {"content-type": "application/json", "content-length": str(len(answer.body))}


async def test_an_absent_caller_flag_counts_as_false(app: SidecarApp) -> None:
    caller = {"subject": "anonymous", "auth_method": {"method": "anonymous"}}
    receipt = (await decision(app, caller=caller))["receipt"]
    assert receipt["caller_identity_hash"].startswith("5a45e80d1ab1a73e")


# Grants that may be used a limited number of times: counted durably, once for each request


LIMITED = {"tool_server": SERVER, "tool_name": TOOL}
EXHAUSTED = f"capability has no invocation left of the 2 granted for tool {TOOL} on server {SERVER}"


def limited(limit: int, name: str = "cap-1") -> Any:
    return capability(grants=[grant(tool="another"), grant(max_invocations=limit)], name=name)


async def test_a_grant_can_be_used_as_often_as_it_says(tmp_path: Path) -> None:
    async with sidecar(tmp_path) as app:
        reasons = [
            (await decision(app, limited(2), **LIMITED, request_id=f"req-{number}"))["verdict"].get("reason")
            for number in range(4)
        ]
        assert reasons == [None, None, EXHAUSTED, EXHAUSTED]
    async with sidecar(tmp_path) as app:
        answer = await decision(app, limited(2), **LIMITED, request_id="after a restart")
        assert answer["verdict"]["reason"] == EXHAUSTED
        other = await decision(app, limited(2, "cap-2"), **LIMITED, request_id="another token")
        assert other["verdict"] == {"verdict": "allow"}


async def test_a_limit_of_zero_allows_nothing_and_no_tool_fields_spend_nothing(app: SidecarApp) -> None:
    assert (await decision(app, limited(0), **LIMITED))["verdict"]["verdict"] == "deny"
    for number in range(3):
        answer = await decision(app, limited(1), method="POST", request_id=f"plain-{number}")
        assert answer["verdict"] == {"verdict": "allow"}


async def test_a_retry_does_not_spend_twice(app: SidecarApp) -> None:
    first = await evaluate(app, limited(2), **LIMITED)
    assert (await evaluate(app, limited(2), **LIMITED)).body == first.body
    assert (await decision(app, limited(2), **LIMITED, request_id="req-2"))["verdict"] == {"verdict": "allow"}
    # The first request is still the same, although nothing is left now.
    assert (await evaluate(app, limited(2), **LIMITED)).body == first.body


async def test_of_many_at_once_only_as_many_as_granted_are_allowed(app: SidecarApp) -> None:
    answers = await asyncio.gather(
        *(decision(app, limited(7), **LIMITED, request_id=f"req-{number}") for number in range(100))
    )
    allowed = [answer for answer in answers if answer["verdict"]["verdict"] == "allow"]
    assert len(allowed) == 7
