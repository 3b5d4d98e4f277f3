"""Job receipts, verification of tool receipts, advice (wire protocol, sections 7.5 and 7.6)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chio_core.canonical import canonical_json, sha256_hex
from chio_core.models import CallerIdentity
from chio_core.receipts import verify_receipt
from chio_core.signing import SigningKey
from chio_sidecar.control.receipts import check_tool_receipt
from chio_sidecar.records.reader import ReceiptReader
from tests.sidecar.control_tools import fetch
from tests.sidecar.sidecar_tools import KERNEL, NOW, STRANGER

VECTORS = Path(__file__).parents[1] / "vectors"
STEP = {"pod_name": "p", "phase": "Succeeded", "payload": "ok", "observed_at": "2026-01-01T00:00:00Z"}
JOB: dict[str, Any] = {"job_name": "n", "namespace": "ns", "job_uid": "u-1", "outcome": "succeeded"}


def cases(topic: str) -> list[Any]:
    document = json.loads((VECTORS / topic / "v1.json").read_text("utf-8"))
    return [pytest.param(case, id=f"{topic}-{case['id']}") for case in document["cases"]]


def submit(app: Any, **body: Any) -> Any:
    return fetch(app, "POST", "/v1/receipts", json=JOB | body)


def stored(app: Any, receipt_id: str) -> dict[str, Any]:
    with ReceiptReader(app.state.sidecar.config.store_path, option="store") as reader:
        receipt = reader.get(receipt_id)
    assert receipt is not None
    return receipt


def test_a_job_receipt_is_signed_and_stored(app: Any) -> None:
    response = submit(app, capability_id="cap-1", started_at="t0", steps=[STEP])
    assert response.json()["accepted"] is True
    receipt = stored(app, response.json()["receipt_id"])
    verify_receipt(receipt, trusted_keys={KERNEL.public_hex})
    assert receipt["request_id"] == "job-receipt-submission:u-1"
    assert (receipt["route_pattern"], receipt["method"]) == ("/v1/receipts", "POST")
    assert receipt["caller_identity_hash"] == CallerIdentity.anonymous().identity_hash()
    assert (receipt["verdict"], receipt["response_status"]) == ({"verdict": "allow"}, 200)
    assert receipt["content_hash"] == sha256_hex(response.request.content)
    assert receipt["policy_hash"] == sha256_hex(b"chio_api_protect_sidecar_receipt_submission")
    assert (receipt["capability_id"], receipt["timestamp"]) == ("cap-1", NOW)
    assert receipt["metadata"] == {
        "chio_http_status_scope": "final",
        "submission_kind": "job_receipt",
        **JOB,
        "started_at": "t0",
        "steps": [STEP],
    }


def test_the_same_submission_again_has_the_same_receipt(app: Any) -> None:
    assert submit(app).json() == submit(app).json()


def test_another_submission_for_the_same_job_never_replaces_the_first(app: Any) -> None:
    first = submit(app).json()["receipt_id"]
    response = submit(app, outcome="failed")
    assert response.status_code == 409
    assert stored(app, first)["metadata"]["outcome"] == "succeeded"


@pytest.mark.parametrize("name", ["job_name", "namespace", "job_uid", "outcome"])
@pytest.mark.parametrize("value", ["", "  "])
def test_a_blank_required_member_is_refused(app: Any, name: str, value: str) -> None:
    response = submit(app, **{name: value})
    expected = "job_name, namespace, job_uid, and outcome are required"
    assert (response.status_code, response.json()["message"]) == (400, expected)


@pytest.mark.parametrize("name", ["pod_name", "phase", "payload", "observed_at"])
def test_an_incomplete_step_is_refused(app: Any, name: str) -> None:
    response = submit(app, steps=[STEP, STEP | {name: " "}])
    expected = "receipt steps must include pod_name, phase, payload, and observed_at"
    assert (response.status_code, response.json()["message"]) == (400, expected)


@pytest.mark.parametrize("case", [*cases("april/receipt"), *cases("april/issued-receipt"), *cases("newer/receipt")])
def test_a_tool_receipt_is_checked_as_the_vector_says(case: dict[str, Any]) -> None:
    found, expected = check_tool_receipt(case["receipt"]), case["expected"]
    for name in ("signature_valid", "receipt_id_valid", "parameter_hash_valid"):
        assert getattr(found, name) == expected.get(name, getattr(found, name)), name


def verify(app: Any, receipt: dict[str, Any], **expected: str) -> dict[str, Any]:
    response = fetch(app, "POST", "/v1/receipts/verify", json=receipt | expected)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def tool_receipt(key: SigningKey = KERNEL, **members: Any) -> dict[str, Any]:
    body = {
        "id": "rcpt-1",
        "timestamp": NOW,
        "capability_id": "cap-1",
        "tool_server": "s",
        "tool_name": "t",
        "action": {"parameters": {}, "parameter_hash": sha256_hex(b"{}")},
        "decision": {"verdict": "allow"},
        "content_hash": "0" * 64,
        "policy_hash": "0" * 64,
        "kernel_key": key.public_hex,
    } | members
    return body | {"signature": key.sign(canonical_json(body))}


def test_a_good_tool_receipt_of_this_sidecar_is_authorized(app: Any) -> None:
    found = verify(app, tool_receipt(), expected_decision="allow", expected_capability_id="cap-1")
    assert (found["ok"], found["authorized"], found["valid"], found["result"]) == (True, True, True, "allow")
    assert (found["receipt_id"], found["signed_at"], found["decision"]) == ("rcpt-1", NOW, "allow")
    assert "reason" not in found


BAD_HASH = {"parameters": {}, "parameter_hash": "0" * 64}


@pytest.mark.parametrize(
    ("receipt", "expected", "reason"),
    [
        (tool_receipt() | {"tool_name": "u"}, {}, "receipt signature did not verify"),
        (tool_receipt(STRANGER), {}, "receipt signer is not trusted"),
        (tool_receipt(action=BAD_HASH), {}, "receipt action parameter_hash does not match parameters"),
        (tool_receipt(trust_level="advisory"), {}, "receipt semantics are not authoritative"),
        (tool_receipt(), {"expected_decision": "deny"}, "decision allow does not match expected deny"),
        (
            tool_receipt(),
            {"expected_capability_id": "cap-2"},
            "receipt capability_id does not match expected_capability_id",
        ),
    ],
)
def test_verify_names_the_reason(app: Any, receipt: dict[str, Any], expected: dict[str, str], reason: str) -> None:
    found = verify(app, receipt, **expected)
    assert (found["valid"], found["reason"]) == (False, reason)


@pytest.mark.parametrize("document", [{}, {"decision": 1, "action": 2, "kernel_key": 3, "signature": 4, "id": 5}])
def test_a_document_of_any_shape_is_reported_as_not_valid(app: Any, document: dict[str, Any]) -> None:
    found = verify(app, document)
    assert (found["valid"], found["ok"], found["authorized"]) == (False, False, False)


def test_advice_is_switched_off(app: Any) -> None:
    body = {"capability_id": "c", "tool_server": "s", "tool_name": "t", "parameters": {}}
    response = fetch(app, "POST", "/v1/evaluate/advisory", json=body)
    assert (response.status_code, response.json()["error"]) == (409, "chio_advisory_disabled")
