"""Approvals over the control plane: shapes and errors (wire protocol, sections 7.7 and 12.4)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.models.request import content_hash
from chio_sidecar.policy.approvals import GovernedApprovalToken, sign_token
from tests.sidecar.approval_tools import (
    PATTERN,
    approved,
    control,
    intent_hash,
    operate,
    pay,
    pending_id,
    reason,
    signed,
    verdict,
)
from tests.sidecar.sidecar_tools import HOLDER, KERNEL, NOW, SERVER, STRANGER, TOOL, Clock, Response, capability, send

Create = Callable[..., Any]
SUBMISSION = {
    "capability_id": "cap-9",
    "tool_server": "bank",
    "tool_name": "transfer",
    "parameter_hash": "ab" * 32,
    "requested_by": "agent-7",
    "ttl_seconds": 600,
}


def error(answer: Response) -> tuple[int, str, str]:
    """Status, code and message; the document has no other member."""
    document = answer.document
    assert document.keys() == {"error", "message"}
    return answer.status, document["error"], document["message"]


async def respond(app: Any, approval_id: str, **changes: Any) -> Response:
    """Respond with a token of the approver, by default a valid one."""
    key = changes.pop("key", KERNEL)
    right = {"request_id": approval_id, "governed_intent_hash": await intent_hash(app, approval_id)}
    body: dict[str, Any] = {"outcome": "approved", "approver": key.public_hex, "reason": "seen"}
    token = signed(key, **(right | changes.pop("token", {})))
    return await control(app, "POST", f"/approvals/{approval_id}/respond", body | {"token": token} | changes)


async def test_a_pending_approval_shows_the_request(app: Any) -> None:
    fields = {"query": {"a": "1"}, "body_hash": "ab" * 32, "arguments": {"to": "bob"}}
    approval_id = await pending_id(app, **fields, tool_server=SERVER, tool_name=TOOL)
    answer = (await control(app, "GET", "/approvals/pending")).document
    (one,) = answer["approvals"]
    assert answer["count"] == 1
    assert (await control(app, "GET", f"/approvals/{approval_id}")).document == {"pending": one}
    intent = one.pop("governed_intent")
    assert one == {
        "approval_id": approval_id,
        "policy_id": app.state.sidecar.routes.policy_hash,
        "subject_id": "anonymous",
        "capability_id": "cap-1",
        "subject_public_key": HOLDER.public_hex,
        "tool_server": SERVER,
        "tool_name": TOOL,
        "action": "POST /pay/7",
        "parameter_hash": content_hash("POST", PATTERN, "/pay/7", {"a": "1"}, "ab" * 32),
        "expires_at": NOW + 3600,
        "created_at": NOW,
        "summary": "POST /pay/7 by anonymous: 500 USD against a threshold of 100 USD",
        "governed_intent_hash": sha256_hex(canonical_json(intent)),
        "trusted_approvers": [KERNEL.public_hex],
    }
    assert {name: intent[name] for name in ("method", "path", "query", "body_hash", "arguments")} == {
        "method": "POST",
        "path": "/pay/7",
        **fields,
    }
    assert intent["amount"] == {"units": 500, "currency": "USD"}


async def test_a_very_long_value_is_shown_as_its_hash(app: Any) -> None:
    long = {"text": "x" * 100_000}
    approval_id = await pending_id(app, arguments=long, tool_server=SERVER, tool_name=TOOL)
    kept = await app.state.sidecar.store.approval(approval_id)
    assert len(kept.request_json) < 5000
    document = json.loads(kept.request_json)
    intent = document["governed_intent"]
    assert intent["arguments"] == {"sha256": sha256_hex(canonical_json(long))}
    assert intent["shortened"] == ["arguments"]
    assert document["governed_intent_hash"] == sha256_hex(canonical_json(intent))


async def test_pending_approvals_are_filtered(app: Any) -> None:
    bob = {"caller": {"subject": "bob", "auth_method": {"method": "anonymous"}}}
    first = await pending_id(app, 1)
    second = await pending_id(app, 2, **bob)
    third = await pending_id(app, 3, tool_server=SERVER, tool_name=TOOL)
    wanted = {
        "subject_id=bob": [second],
        f"tool_server={SERVER}": [third],
        f"tool_name={TOOL}&subject_id=bob": [],
        "tool_server=http": [first, second],
        "limit=2": [first, second],
        "limit=0": [],
        f"not_expired_at={NOW + 3599}": [first, second, third],
        f"not_expired_at={NOW + 3600}": [],
    }
    for query, ids in wanted.items():
        found = (await control(app, "GET", "/approvals/pending", query=query)).document
        assert ([one["approval_id"] for one in found["approvals"]], found["count"]) == (ids, len(ids)), query
    for query in ("limit=-1", "limit=x", "not_expired_at=1.5", "limit=" + "9" * 30):
        status, code, message = error(await control(app, "GET", "/approvals/pending", query=query))
        assert (status, code) == (400, "bad_request"), message


@pytest.mark.parametrize("outcome", ["approved", "denied"])
async def test_an_operator_responds_and_the_sidecar_signs(outcome: str, app: Any) -> None:
    approval_id = await pending_id(app)
    hashed = await intent_hash(app, approval_id)
    answer = await operate(app, approval_id, outcome, reason="because")
    assert answer.document == {"approval_id": approval_id, "outcome": outcome, "resolved_at": NOW}
    assert (await control(app, "GET", "/approvals/pending")).document == {"approvals": [], "count": 0}
    resolution = (await control(app, "GET", f"/approvals/{approval_id}")).document.pop("resolution")
    kept = (await app.state.sidecar.store.approval(approval_id)).response
    assert resolution == {
        "approval_id": approval_id,
        "outcome": outcome,
        "resolved_at": NOW,
        "approver_hex": KERNEL.public_hex,
        "token_id": kept.token_id,
    }
    token = json.loads(kept.token_json)
    signature = token.pop("signature")
    assert KERNEL.sign(canonical_json(token)) == signature
    assert token == {
        "id": kept.token_id,
        "approver": KERNEL.public_hex,
        "subject": HOLDER.public_hex,
        "governed_intent_hash": hashed,
        "request_id": approval_id,
        "issued_at": NOW,
        "expires_at": NOW + 3600,
        "decision": outcome,
    }
    assert kept.reason == "because"


async def test_a_signed_response_counts_like_that_of_an_operator(create: Create) -> None:
    app = create(trusted_approvers={STRANGER.public_hex})
    approval_id = await pending_id(app)
    answer = await respond(app, approval_id, key=STRANGER)
    assert answer.document == {"approval_id": approval_id, "outcome": "approved", "resolved_at": NOW}
    assert verdict(await pay(app, 1, approval_id)) == "allow"
    other = await pending_id(app, 2)
    no = await respond(app, other, outcome="denied", token={"decision": "denied", "id": "token-2"})
    assert no.status == 200
    assert reason(await pay(app, 3, other)) == f"approval {other} was denied"


REJECTED: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "foreign approver": ({"key": STRANGER}, 403, "approval_rejected", "an approver that is not trusted"),
    "another approver": ({"approver": STRANGER.public_hex}, 403, "approval_rejected", "not the one who signed"),
    "another outcome": ({"outcome": "denied"}, 403, "approval_rejected", "outcome is denied"),
    "another approval": ({"token": {"request_id": "apr-2"}}, 403, "approval_rejected", "another approval"),
    "another intent": ({"token": {"governed_intent_hash": "0"}}, 403, "approval_rejected", "another request"),
    "another subject": ({"token": {"subject": "0" * 64}}, 403, "approval_rejected", "another subject"),
    "a long life": ({"token": {"expires_at": NOW + 9999}}, 403, "approval_rejected", "more than 3600 seconds"),
    "expired": ({"token": {"expires_at": NOW}}, 403, "approval_rejected", "expired"),
    "no outcome": ({"outcome": "maybe"}, 400, "bad_request", "outcome"),
    "no approver": ({"approver": None}, 400, "bad_request", "approver"),
    "a long reason": ({"reason": "x" * 1001}, 400, "bad_request", "reason"),
}


@pytest.mark.parametrize("kind", REJECTED)
async def test_a_signed_response_that_breaks_a_rule_is_rejected(kind: str, app: Any) -> None:
    changes, status, code, words = REJECTED[kind]
    approval_id = await pending_id(app)
    found = error(await respond(app, approval_id, **changes))
    assert found[:2] == (status, code)
    assert words in found[2]
    assert (await control(app, "GET", "/approvals/pending")).document["count"] == 1


async def test_a_response_without_a_readable_token_is_a_bad_request(app: Any) -> None:
    approval_id = await pending_id(app)
    for token in (None, "text", {}, signed() | {"signature": "x"}):
        body = {"outcome": "approved", "approver": KERNEL.public_hex, "token": token}
        found = error(await control(app, "POST", f"/approvals/{approval_id}/respond", body))
        assert found[:2] == (400, "bad_request")


async def test_a_second_response_is_a_conflict_and_the_same_token_a_replay(app: Any) -> None:
    approval_id = await pending_id(app, 1, path="/pay/1")
    hashed = await intent_hash(app, approval_id)
    body = {"outcome": "approved", "approver": KERNEL.public_hex}
    body |= {"token": signed(request_id=approval_id, governed_intent_hash=hashed)}
    path = f"/approvals/{approval_id}/respond"
    assert (await control(app, "POST", path, body)).status == 200
    assert error(await control(app, "POST", path, body)) == (
        409, "replay_detected", f"the token for approval {approval_id} was used already",
    )  # fmt: skip
    late = (409, "conflict", f"approval {approval_id} is approved or denied already")
    assert error(await operate(app, approval_id, "denied")) == late
    other = await pending_id(app, 2, path="/pay/2")
    assert error(await respond(app, other))[:2] == (409, "replay_detected")


async def test_an_expired_approval_cannot_be_answered(create: Create) -> None:
    clock = Clock()
    app = create(clock=clock)
    approval_id = await pending_id(app)
    clock.now = NOW + 3600
    expected = f"approval {approval_id} has expired"
    assert error(await operate(app, approval_id)) == (409, "conflict", expected)
    assert error(await control(app, "GET", f"/approvals/{approval_id}")) == (404, "not_found", expected)
    assert (await control(app, "GET", "/approvals/pending", query="not_expired_at=0")).document["count"] == 0


async def test_a_batch_is_answered_one_by_one(app: Any) -> None:
    ids = [await pending_id(app, path, path=path) for path in ("/pay/1", "/pay/2", "/pay/3")]
    decisions = []
    for number, (approval_id, outcome) in enumerate(zip(ids, ("approved", "denied", "approved"), strict=True)):
        members = {
            "id": f"token-{number}",
            "request_id": approval_id,
            "governed_intent_hash": await intent_hash(app, approval_id),
            "decision": outcome,
        }
        token = signed(STRANGER if number == 2 else KERNEL, **members)
        answer = {"outcome": outcome, "approver": token["approver"], "token": token}
        decisions.append({"approval_id": approval_id} | answer)
    decisions.append({"approval_id": "apr-x", "outcome": "approved"})
    answer = (await control(app, "POST", "/approvals/batch/respond", {"decisions": decisions})).document
    assert answer == {
        "results": [
            {"approval_id": ids[0], "status": "resolved", "outcome": "approved"},
            {"approval_id": ids[1], "status": "resolved", "outcome": "denied"},
            {
                "approval_id": ids[2],
                "status": "rejected",
                "error": "approval token is signed by an approver that is not trusted",
            },
            {"approval_id": "apr-x", "status": "rejected", "error": "approval apr-x is not known"},
        ],
        "summary": {"total": 4, "approved": 1, "denied": 1, "rejected": 2},
    }
    long = {"decisions": [{"approval_id": "a"}] * 1001}
    assert error(await control(app, "POST", "/approvals/batch/respond", long))[:2] == (400, "bad_request")


async def test_an_approval_can_be_submitted(app: Any) -> None:
    answer = (await control(app, "POST", "/approvals/submit", SUBMISSION | {"triggered_by": "a"})).document
    approval_id = answer["approval_id"]
    assert answer == {
        "approval_id": approval_id,
        "status": "pending",
        "expires_at": NOW + 600,
        "resume_path": f"/approvals/{approval_id}/respond",
    }
    again = (await control(app, "POST", "/approvals/submit", SUBMISSION | {"ttl_seconds": 5})).document
    assert again == answer
    pending = (await control(app, "GET", f"/approvals/{approval_id}")).document["pending"]
    expected = {name: pending[name] for name in ("subject_id", "action", "summary", "triggered_by")}
    assert expected == {
        "subject_id": "agent-7",
        "action": "bank/transfer",
        "summary": "bank/transfer by agent-7",
        "triggered_by": "a",
    }
    assert reason(await pay(app, 1, approval_id)) == f"approval {approval_id} is for another request"
    assert (await operate(app, approval_id, "denied")).status == 200
    denied = (403, "approval_rejected", f"approval {approval_id} was denied")
    assert error(await control(app, "POST", "/approvals/submit", SUBMISSION)) == denied


@pytest.mark.parametrize(
    "changes",
    [
        {"ttl_seconds": 3601},
        {"ttl_seconds": 0},
        {"ttl_seconds": "60"},
        {"tool_server": ""},
        {"requested_by": None},
        {"parameter_hash": "x" * 1001},
        {"triggered_by": 7},
        {"summary": "x" * 1001},
    ],
)
async def test_a_malformed_submission_is_a_bad_request(changes: dict[str, Any], app: Any) -> None:
    found = error(await control(app, "POST", "/approvals/submit", SUBMISSION | changes))
    assert found[:2] == (400, "bad_request")
    assert next(iter(changes)) in found[2]


async def test_submissions_are_limited_too(app: Any) -> None:
    for number in range(100):
        body = SUBMISSION | {"parameter_hash": str(number)}
        assert (await control(app, "POST", "/approvals/submit", body)).status == 200
    found = error(await control(app, "POST", "/approvals/submit", SUBMISSION))
    assert found[:2] == (503, "chio_overloaded")
    assert "100 approvals of this caller are waiting already" in found[2]


async def test_a_store_that_fails_is_an_internal_error(app: Any) -> None:
    approval_id = await pending_id(app)
    await app.state.sidecar.store.close()
    assert error(await operate(app, approval_id))[:2] == (500, "internal_error")


async def test_two_operators_at_once_resolve_an_approval_once(create: Create) -> None:
    one, two = create(), create()
    approval_id = await pending_id(one)
    answers = [await operate(one, approval_id), await operate(two, approval_id, "denied")]
    assert [answer.status for answer in answers] == [200, 409]
    assert verdict(await pay(two, 1, approval_id)) == "allow"


async def test_a_repeated_request_gets_the_id_of_its_approval_again(app: Any) -> None:
    approval_id = await approved(app)
    assert await pending_id(app, 2) == approval_id
    assert (await control(app, "GET", "/approvals/pending")).document["count"] == 0


async def test_keys_are_read_in_any_case(app: Any) -> None:
    approval_id = await pending_id(app, token=capability())
    answer = await respond(app, approval_id, approver="0x" + KERNEL.public_hex.upper())
    assert answer.status == 200


def test_the_text_form_of_a_token_is_the_protocols() -> None:
    token = sign_token(
        KERNEL, token_id="t", subject="0" * 64, intent_hash="ab", approval_id="a", decision="approved", now=NOW
    )
    assert GovernedApprovalToken.model_validate(token.to_wire()) == token
    assert list(token.to_wire()) == [
        "id", "approver", "subject", "governed_intent_hash", "request_id", "issued_at", "expires_at", "decision",
        "signature",
    ]  # fmt: skip


async def test_an_unknown_approval_is_not_found(app: Any) -> None:
    assert (await control(app, "GET", "/approvals/pending", query="subject_id=a&limit=5")).document["count"] == 0
    for method, path, body in (("GET", "", None), ("POST", "/respond", {"outcome": "approved"})):
        response = await control(app, method, f"/approvals/a-1{path}", body)
        assert error(response) == (404, "not_found", "approval a-1 is not known")


async def test_every_unknown_approval_of_a_batch_is_rejected(app: Any) -> None:
    body = {"decisions": [{"approval_id": "a"}, {"approval_id": "b", "outcome": "approved"}]}
    found = (await control(app, "POST", "/approvals/batch/respond", body)).document
    assert [(one["approval_id"], one["status"]) for one in found["results"]] == [("a", "rejected"), ("b", "rejected")]
    assert found["summary"] == {"total": 2, "approved": 0, "denied": 0, "rejected": 2}


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"decisions":1}', b'{"decisions":[{}]}', b" " * (2 * 1024 * 1024 + 1)]
)
async def test_a_malformed_batch_is_a_bad_request(app: Any, content: bytes) -> None:
    response = await send(app, "POST", "/approvals/batch/respond", content)
    assert error(response)[:2] == (400, "bad_request")
