"""Every reason of the evaluate call, in the protocol's words and in its order (wire protocol, section 1.6)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from chio_core.capabilities import issue_capability, sign_link
from chio_sidecar.app import SidecarApp
from chio_sidecar.policy.rules import rule_of
from tests.sidecar.sidecar_tools import (
    AUTHORITY,
    HOLDER,
    KERNEL,
    NOW,
    SERVER,
    STRANGER,
    TOOL,
    Clock,
    capability,
    decision,
    evaluate_body,
    grant,
    send,
    sidecar,
    token_text,
)
from tests.support import run

POST = {"method": "POST"}
TOOL_FIELDS = {"tool_server": SERVER, "tool_name": TOOL}
BROKEN_PATTERN = [{"type": "regex_match", "value": "("}]

UNSUPPORTED = "HTTP authority projection does not support authorization field {}"
BOTH = "tool-call evaluation requires both tool_server and tool_name"
UNTRUSTED = "capability issuer is not trusted"
FORGED = "capability signature verification failed"
EARLY = f"invalid capability token: capability not yet valid (not_before: {NOW + 1})"
LATE = f"invalid capability token: capability expired at {NOW}"
NOT_GRANTED = f"capability does not authorize tool {TOOL} on server {SERVER}"
OTHER = "capability_id does not match the presented capability token"
NONE = "side-effect route requires a capability token"


def forged(token: Any) -> dict[str, Any]:
    """The same token with another signature."""
    return dict(token.to_wire()) | {"signature": "00" * 64}


REFUSALS: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "authority of a kind that is not judged": (
        capability,
        {"approval_tokens": []},
        UNSUPPORTED.format("approval_tokens"),
    ),
    "a proposal": (capability, {"threshold_approval_proposal": {}}, UNSUPPORTED.format("threshold_approval_proposal")),
    "a supplement before R1": (
        capability,
        {"supplemental_authorization": "x", "tool_name": TOOL},
        UNSUPPORTED.format("supplemental_authorization"),
    ),
    "R1, server alone": (lambda: None, {"tool_server": SERVER}, BOTH),
    "R1, tool alone": (lambda: None, {"tool_name": TOOL}, BOTH),
    "R1 before R2": (lambda: "no token", {"tool_name": TOOL}, BOTH),
    "R3": (lambda: capability(STRANGER), {}, UNTRUSTED),
    "R3 before R4": (lambda: forged(capability(STRANGER)), {}, UNTRUSTED),
    "R4": (lambda: forged(capability()), {}, FORGED),
    "R4 before R5": (lambda: forged(capability(issued=NOW + 9)), {}, FORGED),
    "R5a": (lambda: capability(issued=NOW + 1), {}, EARLY),
    "R5a before R6": (lambda: capability(issued=NOW + 1, grants=[]), TOOL_FIELDS, EARLY),
    "R5b at the very second": (lambda: capability(issued=NOW - 60, ttl=60), {}, LATE),
    "R5b before R6": (lambda: capability(issued=NOW - 60, ttl=60, grants=[]), TOOL_FIELDS, LATE),
    "R6, other tool": (lambda: capability(grants=[grant(tool="other")]), TOOL_FIELDS, NOT_GRANTED),
    "R6, no grant at all": (lambda: capability(grants=[]), TOOL_FIELDS, NOT_GRANTED),
    "R6, a prefix is no pattern": (lambda: capability(grants=[grant(tool="hello_*")]), TOOL_FIELDS, NOT_GRANTED),
    "R6 before R7": (lambda: capability(grants=[]), TOOL_FIELDS | {"capability_id": "cap-2"}, NOT_GRANTED),
    "R7": (lambda: capability(), {"capability_id": "cap-2"}, OTHER),
    "R8": (lambda: None, POST, NONE),
    "R8, a name opens nothing": (lambda: None, POST | {"capability_id": "cap-1"}, NONE),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_refusal_has_the_protocols_reason(case: str, tmp_path: Path) -> None:
    make_token, changes, reason = REFUSALS[case]
    async with sidecar(tmp_path) as app:
        answer = await decision(app, make_token(), **changes)
        assert answer["verdict"] == {
            "verdict": "deny",
            "reason": reason,
            "guard": "CapabilityGuard",
            "http_status": 403,
        }
        receipt = answer["receipt"]
        assert rule_of(receipt) == (re.split("[ ,]", case)[0] if case.startswith("R") else "unsupported")
        assert receipt["verdict"] == answer["verdict"]
        assert receipt["evidence"] == answer["evidence"]
        assert receipt["response_status"] == 403
        assert "capability_id" not in receipt
        details = reason if reason != NONE else "side-effect route requires a valid capability token"
        assert answer["evidence"] == [{"guard_name": "CapabilityGuard", "verdict": False, "details": details}]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("text", ["", "[]", "{}", "no json", '{"id":1,"id":1}', "\ud7ff"])
async def test_a_token_that_is_no_token_is_refused_on_every_route(method: str, text: str, app: SidecarApp) -> None:
    answer = await decision(app, method=method, headers={"x-chio-capability": text})
    assert answer["verdict"]["verdict"] == "deny"
    assert answer["verdict"]["reason"].startswith("invalid capability token: ")
    assert rule_of(answer["receipt"]) == "R2"


async def test_a_pattern_that_does_not_compile_beats_a_grant_that_matches(app: SidecarApp) -> None:
    token = capability(grants=[grant(), grant(constraints=BROKEN_PATTERN)])
    answer = await decision(app, token, **TOOL_FIELDS, arguments="text")
    assert answer["verdict"]["reason"].startswith(
        'failed to evaluate capability scope: invalid capability constraint: regex "(" failed to compile: '
    )
    assert rule_of(answer["receipt"]) == "R6x"


async def test_a_bad_token_is_refused_even_on_a_safe_route(app: SidecarApp) -> None:
    assert (await decision(app, forged(capability())))["verdict"]["reason"] == FORGED
    assert (await decision(app, request_id="req-2"))["verdict"] == {"verdict": "allow"}


async def test_a_safe_route_is_allowed_with_and_without_a_token(app: SidecarApp) -> None:
    for number, token in enumerate([None, capability()]):
        answer = await decision(app, token, request_id=f"req-{number}")
        assert answer["verdict"] == {"verdict": "allow"}
        assert answer["evidence"] == [
            {"guard_name": "DefaultPolicyGuard", "verdict": True, "details": "safe method, session-scoped allow"}
        ]
        assert answer["receipt"].get("capability_id") == (None if token is None else "cap-1")


@pytest.mark.parametrize("issuer", [AUTHORITY, KERNEL], ids=["configured", "own"])
async def test_a_token_of_a_trusted_issuer_opens_a_side_effect_route(issuer: Any, app: SidecarApp) -> None:
    answer = await decision(app, capability(issuer), **POST, **TOOL_FIELDS, capability_id="cap-1")
    assert answer["verdict"] == {"verdict": "allow"}
    assert answer["receipt"]["capability_id"] == "cap-1"
    assert answer["receipt"]["response_status"] == 200
    assert answer["evidence"] == [
        {"guard_name": "CapabilityGuard", "verdict": True, "details": "valid capability token presented"}
    ]


async def test_the_scope_does_not_count_without_tool_fields(app: SidecarApp) -> None:
    assert (await decision(app, capability(grants=[]), **POST))["verdict"] == {"verdict": "allow"}


async def test_the_clock_of_the_sidecar_counts_and_not_the_clients(tmp_path: Path) -> None:
    clock = Clock()
    async with sidecar(tmp_path, clock=clock) as app:
        token = capability(ttl=3600)
        assert (await decision(app, token, **POST, timestamp=0))["verdict"] == {"verdict": "allow"}
        clock.now = NOW + 3600
        answer = await decision(app, token, **POST, timestamp=NOW, request_id="req-2")
        assert answer["verdict"]["reason"].startswith("invalid capability token: capability expired at ")


def test_a_token_signed_with_the_schema_form_is_taken_unless_that_is_switched_off(tmp_path: Path) -> None:
    token = issue_capability(AUTHORITY, subject=HOLDER.public_hex, scope={}, ttl_seconds=60, now=NOW, schema_form=True)

    async def ask(name: str, accept: bool) -> str:
        async with sidecar(tmp_path, store_path=tmp_path / name, accept_schema_form=accept) as app:
            return str((await decision(app, token, **POST))["verdict"].get("reason"))

    assert run(ask("a", True)) == "None"
    assert run(ask("b", False)) == FORGED


CARRIERS: dict[str, dict[str, Any]] = {
    "query of the call": {"url": "x=1&chio_capability={quoted}"},
    "headers of the body, lower case": {"headers": {"x-chio-capability": "{text}"}},
    "headers of the body, mixed case": {"headers": {"X-Chio-Capability": "{text}"}},
    "query of the body": {"query": {"chio_capability": "{text}"}},
}


def _filled(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {name: _filled(item, text) for name, item in value.items()}
    return value.replace("{text}", text).replace("{quoted}", quote_plus(text))


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_token_is_found_wherever_the_protocol_allows_it(carrier: str, tmp_path: Path) -> None:
    good, bad = token_text(capability()), token_text(forged(capability()))

    async def ask(header: str | None, text: str, request_id: str) -> str | None:
        changes = _filled(CARRIERS[carrier], text)
        url = changes.pop("url", "")
        body = json.dumps(evaluate_body(method="POST", request_id=request_id, **changes)).encode()
        headers = [] if header is None else [("x-ChIo-capability", header)]
        async with sidecar(tmp_path) as app:
            answer = await send(app, "POST", "/chio/evaluate", body, headers=headers, query=url)
            reason: str | None = answer.document["verdict"].get("reason")
            return reason

    assert run(ask(None, good, "req-1")) is None
    assert run(ask(None, bad, "req-2")) == FORGED
    # The header of the call comes first, whatever the others say.
    assert run(ask(good, bad, "req-3")) is None
    assert run(ask(bad, good, "req-4")) == FORGED


async def test_of_two_capability_headers_the_first_counts(app: SidecarApp) -> None:
    pair = [("x-chio-capability", token_text(capability())), ("x-chio-capability", token_text(forged(capability())))]
    body = json.dumps(evaluate_body(method="POST")).encode()
    answer = await send(app, "POST", "/chio/evaluate", body, headers=pair)
    assert answer.document["verdict"] == {"verdict": "allow"}


CHAIN_OF_NINE = [f"cap-{number}" for number in range(9)]


async def test_a_delegation_chain_is_checked_after_everything_else(tmp_path: Path) -> None:
    long = capability(parents=CHAIN_OF_NINE)
    async with sidecar(tmp_path) as app:
        answer = await decision(app, long, **POST)
        assert answer["verdict"]["reason"] == "delegation depth 9 exceeds maximum 8"
        answer = await decision(app, long, **POST, capability_id="cap-2", request_id="req-2")
        assert answer["verdict"]["reason"] == OTHER
        fine = capability(parents=CHAIN_OF_NINE[:8])
        assert (await decision(app, fine, **POST, request_id="req-3"))["verdict"] == {"verdict": "allow"}


async def test_a_broken_delegation_link_is_refused(tmp_path: Path) -> None:
    link = sign_link(HOLDER, capability_id="root", delegatee=HOLDER.public_hex, timestamp=1)
    broken = capability(links=[link.model_copy(update={"timestamp": 2})])
    async with sidecar(tmp_path) as app:
        answer = await decision(app, broken, **POST)
        assert answer["verdict"]["reason"] == "delegation chain broken: signature invalid at link index 0"
